"""What every place that keeps images can do. Drivers and the collector work on this alone.

All changes are made by the SR master with the SR lock held, and last once the call returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Make = Callable[[Path], None]
"""Writes an image at a path that is not yet visible to anybody else."""


@dataclass(frozen=True, slots=True)
class Volume:
    """One image as the storage sees it. Sizes in bytes: `size` its length, `used` what it costs."""

    uuid: str
    format: str
    path: Path
    size: int
    used: int


@dataclass(frozen=True, slots=True)
class Stranger:
    """Something that looks like an image (`format`) but carries no name of ours; never touched."""

    name: str
    format: str
    path: Path


@dataclass(frozen=True, slots=True)
class Listing:
    """All that one look at the storage saw."""

    volumes: tuple[Volume, ...]
    strangers: tuple[Stranger, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of the whole storage: `total`, in use, and free for us to take."""

    total: int
    used: int
    free: int


class VolumeStore(ABC):
    """The volumes of one attached SR, and a few small records that must survive with them."""

    @abstractmethod
    def require_present(self) -> None:
        """Raise `SrUnavailable` unless the storage is still the one that was attached."""

    @abstractmethod
    def listing(self) -> Listing:
        """Every volume, in one look."""

    @abstractmethod
    def change_mark(self) -> str:
        """A text that is another one once a volume came, went or was renamed; cheap to ask for."""

    @abstractmethod
    def volume(self, uuid: str, image_format: str) -> Volume:
        """One volume; raises `VdiMissing`."""

    @abstractmethod
    def path(self, uuid: str, image_format: str) -> Path:
        """Where the volume is, or would be."""

    @abstractmethod
    def parent_uuid(self, name: str) -> tuple[str, str] | None:
        """UUID and format of the volume that an image names as its parent; None for a stranger."""

    @abstractmethod
    def create(
        self, uuid: str, image_format: str, make: Make, before: Callable[[int], None]
    ) -> None:
        """Add a volume whose content `make` writes.

        `before` is called when it only lacks its name, with the bytes that it costs. After a crash
        or an error the volume is there whole or not at all. Raises `VdiExists`.
        """

    @abstractmethod
    def displace(self, uuid: str, image_format: str, to: str, make: Make) -> None:
        """Give the volume the new UUID `to`, and put what `make` writes in its old place.

        The old name is never missing where the storage can give one volume two names. After a
        crash `displaced` tells whether it was done; if not, `undo_displace` goes back.
        """

    @abstractmethod
    def displaced(self, uuid: str, image_format: str, to: str) -> bool:
        """Whether the displacement is complete: two different volumes under the two names."""

    @abstractmethod
    def undo_displace(self, uuid: str, image_format: str, to: str) -> None:
        """Go back to one volume called `uuid`, if the displacement is not complete."""

    @abstractmethod
    def supersede(self, uuid: str, image_format: str, by: str) -> None:
        """Let the volume `by` take the place and name of `uuid`, in one atomic step."""

    @abstractmethod
    def reserve(self, uuid: str, image_format: str, growth: int) -> None:
        """Let the volume grow by so many bytes without fail, as far as the storage can promise it.

        Its content stays as it is. Raises `SrNoSpace`. What is not used comes back by `trim`.
        """

    @abstractmethod
    def trim(self, uuid: str, image_format: str) -> None:
        """Give back what was reserved for the volume and not used; nobody else writes to it."""

    @abstractmethod
    def superseded(self, uuid: str, image_format: str, by: str) -> bool:
        """Whether a `supersede` that was begun took place; if so, it lasts from now on.

        Nobody may have removed or renamed either volume by other means since.
        """

    @abstractmethod
    def fingerprint(self, uuid: str, image_format: str) -> str:
        """A text that is another one once the volume is another, or was written to."""

    @abstractmethod
    def remove(self, uuid: str, image_format: str) -> None:
        """Remove a volume for good; it may be gone already."""

    @abstractmethod
    def unfinished(self) -> tuple[str, ...]:
        """The temporary names that there are; left over, if the SR lock is held."""

    @abstractmethod
    def remove_unfinished(self) -> int:
        """Remove what interrupted calls left under temporary names; returns the bytes freed."""

    @abstractmethod
    def space(self) -> Space:
        """Total, used and free bytes."""

    @abstractmethod
    def records(self) -> dict[str, bytes]:
        """The records by name."""

    @abstractmethod
    def write_record(self, name: str, content: bytes) -> None:
        """Add or replace a record, all or nothing."""

    @abstractmethod
    def remove_record(self, name: str) -> None:
        """Remove a record; it may be gone already."""
