"""Disks made of files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.lvm.tools import call


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
    disk = LoopDisk(Path(call("losetup", "--find", "--show", file).strip()), file)
    try:
        yield disk
    finally:
        remove_mapped(disk.device)
        call("losetup", "--detach", disk.device)


def remove_mapped(device: Path) -> None:
    """Remove every device that is mapped onto this one, the topmost first.

    Raises AssertionError for one that is still open; reading and writing there fails from then on.
    """
    for holder in Path("/sys/class/block", device.name, "holders").iterdir():
        remove_mapped(holder)
        name = Path("/sys/class/block", holder.name, "dm/name").read_text().strip()
        call("dmsetup", "remove", "--force", name)
