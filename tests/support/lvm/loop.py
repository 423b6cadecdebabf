"""Disks made of files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.lvm.tools import SECTOR, call


@dataclass(frozen=True)
class LoopDisk:
    """A loop device, and the file that has its content."""

    device: Path
    file: Path


@contextmanager
def attached(file: Path, size: int) -> Iterator[LoopDisk]:
    """A disk of `size` bytes in a new, sparse file.

    In the end all that is mapped onto it is removed, and it is detached.
    """
    with file.open("xb") as made:
        made.truncate(size)
    with attached_file(file) as disk:
        yield disk


@contextmanager
def attached_file(file: Path) -> Iterator[LoopDisk]:
    """The same for a file that is there."""
    disk = LoopDisk(Path(call("losetup", "--find", "--show", file).strip()), file)
    try:
        _make_ordinary(disk.device)
        yield disk
    finally:
        detach(disk.device)


@contextmanager
def filled(folder: Path, contents: Iterable[bytes]) -> Iterator[list[Path]]:
    """Devices that hold old data, one for each of the contents; gone in the end."""
    with ExitStack() as stack:
        devices = []
        for number, content in enumerate(contents):
            backing = folder / f"backing{number}"
            backing.write_bytes(content)
            devices.append(stack.enter_context(attached_file(backing)).device)
        yield devices


def detach(device: Path) -> None:
    """Remove all that is mapped onto a loop device, and give it back."""
    remove_mapped(device)
    call("losetup", "--detach", device)


def _make_ordinary(device: Path) -> None:
    """Undo what its last user may have left.

    A device that was made read-only stays so when it is detached, and when it is attached again.
    """
    call("blockdev", "--setrw", device)
    told = Path("/sys/class/block", device.name)
    state = {
        "read-only": int((told / "ro").read_text()),
        "sector": int((told / "queue/logical_block_size").read_text()),
        "partscan": int((told / "loop/partscan").read_text()),
        "offset": int((told / "loop/offset").read_text()),
        "sizelimit": int((told / "loop/sizelimit").read_text()),
    }
    ordinary = {"read-only": 0, "sector": SECTOR, "partscan": 0, "offset": 0, "sizelimit": 0}
    assert state == ordinary, f"{device} cannot be made an ordinary disk"


def remove_mapped(device: Path) -> None:
    """Remove every device that is mapped onto this one, the topmost first.

    Raises AssertionError for one that is still open; reading and writing there fails from then on.
    """
    for holder in Path("/sys/class/block", device.name, "holders").iterdir():
        remove_mapped(holder)
        name = Path("/sys/class/block", holder.name, "dm/name").read_text().strip()
        call("dmsetup", "remove", "--force", name)
