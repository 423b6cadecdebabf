"""A site with a volume group as it is now, to be had again and again without making it anew."""

from __future__ import annotations

import os

from sm.cowutil.raw import data_ranges
from tests.lvm.conftest import LvmSite
from tests.support.lvm.loop import LoopDisk, remove_mapped
from tests.support.lvm.tools import call
from tests.support.saved import CHUNK, Saved


class SavedGroup(Saved):
    """All files of a site at rest, and the content of its one disk.

    Then no volume is active: what was mapped when the command was killed is taken away, as by
    `sr_detach`, or by a start of the host.
    """

    def __init__(self, site: LvmSite) -> None:
        (disk,) = site.disks
        remove_mapped(disk.device)
        super().__init__(site, apart=[disk.file])
        self._disk = disk
        self._data = _data(disk)

    def restore(self) -> None:
        """Bring back what was there, and take away all else."""
        remove_mapped(self._disk.device)
        call("blkdiscard", "--force", self._disk.device)
        with self._disk.file.open("r+b") as file:
            for start, content in self._data.items():
                os.pwrite(file.fileno(), content, start)
        call("blockdev", "--flushbufs", self._disk.device)
        super().restore()


def _data(disk: LoopDisk) -> dict[int, bytes]:
    """All that is not zero, by where it is, in chunks."""
    call("blockdev", "--flushbufs", disk.device)
    found = {}
    with disk.file.open("rb") as file:
        for start, end in data_ranges(file.fileno(), 0, os.fstat(file.fileno()).st_size):
            for at in range(start, end, CHUNK):
                content = os.pread(file.fileno(), min(CHUNK, end - at), at)
                if content.count(0) < len(content):
                    found[at] = content
    return found
