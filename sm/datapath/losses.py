"""What a disk lost while it was served: noted where it is met, until somebody has taken note of it.

After a sync that failed, the kernel may have dropped what could not be written, and a later sync
would say nothing of it. So the one failure is remembered: whoever ends the datapath is told,
however often they ask, until the disk is activated again or reset. Before it is served again, its
images are checked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sm import durable, process
from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageError
from sm.cowutil.registry import Formats
from sm.datapath.base import DatapathFailed, Disk

SUFFIX = ".lost"


class Losses:
    """The losses of the disks of one kind of datapath, as files in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, vdi: str) -> Path:
        """Where that of a disk is noted, by the UUID of its VDI."""
        return self._folder / f"{vdi}{SUFFIX}"

    def add(self, disk: Disk, reason: str) -> None:
        """Note a loss for good; the first one that is noted of a disk counts."""
        note_at(self.place(disk.vdi), reason)

    def tell(self, disk: Disk) -> None:
        """Raise `DatapathFailed` where a disk has lost something."""
        reason = self._read(disk)
        if reason is not None:
            raise DatapathFailed(
                f"what was written to {disk.vdi} may be lost: {reason}; check its file system once"
                " it is active again, or take its host's mark away with 'sm vdi reset'"
            )

    def require_sound(self, disk: Disk, chain: Sequence[ImageRef]) -> None:
        """After a loss, check all images of a chain; `DatapathFailed` where one is damaged.

        Only 'sm vdi reset' lets such a disk be served all the same.
        """
        if self._read(disk) is None:
            return
        formats = Formats(process.run)
        for image in chain:
            _read_from_disk(image.path)
            try:
                problems = formats.get(image.format).check(image.path).corruptions
            except ImageError as error:
                problems = (str(error),)
            if problems:
                # From now on it is this that is told: the disk was asked for, and is not served.
                reason = f"{image.path.name} is damaged since a sync failed: {problems[0]}"
                durable.write_file(self.place(disk.vdi), reason.encode("utf-8", "replace"))
                self.tell(disk)

    def forget(self, disk: Disk) -> None:
        """Somebody has taken note."""
        forget(self._folder, disk.vdi)

    def _read(self, disk: Disk) -> str | None:
        try:
            return self.place(disk.vdi).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None


def note_at(place: Path, reason: str) -> None:
    """Note a loss at its `place`; see `Losses.add`."""
    durable.write_file(place, reason.encode("utf-8", "replace"), exclusive=True)


def forget(folder: Path, vdi: str) -> None:
    """Forget what a disk lost under any kind of datapath at or below `folder`."""
    for place in (folder, *(each for each in folder.glob("*") if each.is_dir())):
        found = place / f"{vdi}{SUFFIX}"
        if found.exists():
            durable.remove(found)


def _read_from_disk(path: Path) -> None:
    """Let the check read what the disk has, and not what the kernel could not bring there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
