"""What the contract needs of each kind of storage besides its driver: a place, empty or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from sm.drivers.file import FileSr
from sm.sr import SrDriver


class Place(ABC):
    """Storage that a driver is tried on; what it makes is below `folder` or undone by `close`."""

    driver: type[SrDriver]
    one_sr = True
    """Whether a second SR is refused; else each SR finds a place of its own."""

    optional: frozenset[str] = frozenset()
    """Keys of its device_config that may be missing."""

    formats: tuple[str, ...] = ("qcow2", "vhd", "raw")
    """The formats that a disk of its own is tried with; everything is slow in a guest."""

    fine: frozenset[str] = frozenset()
    """Values of the suite's hostile ones that mean just what they say here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def device_config(self) -> dict[str, str]:
        """How the place is reached: nothing is there at first. The same one each time."""

    @abstractmethod
    def foreign(self) -> dict[str, str]:
        """How a place is reached where somebody else's data is."""

    @abstractmethod
    def foreign_content(self) -> bytes:
        """The data of somebody else, as it is now."""

    def held(self) -> set[str]:
        """What is in use on this machine because of the place, besides mounts."""
        return set()

    def close(self) -> None:  # noqa: B027 - most places are below a folder that goes away
        """Take the place away."""


class FolderPlace(Place):
    """A new folder, and one with a letter in it."""

    driver = FileSr
    fine = frozenset({"/a,exec"})

    def device_config(self) -> dict[str, str]:
        return {"location": str(self.folder / "place")}

    def foreign(self) -> dict[str, str]:
        letter = self.folder / "full" / "letter.txt"
        letter.parent.mkdir()
        letter.write_text("dear")
        return {"location": str(letter.parent)}

    def foreign_content(self) -> bytes:
        return b"".join(path.read_bytes() for path in (self.folder / "full").iterdir())
