"""The headers of an image in a volume that need not be active: its ends as a file of our own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sm.volumes.lvm.devices import View
from sm.volumes.lvm.metadata import LogicalVolume

FRONT = 64 << 10
"""More than the headers of our formats take; guests' data may follow, and is not looked at."""

END = 4096


@contextmanager
def header_view(view: View, volume: LogicalVolume, *, end: bool) -> Iterator[Path]:
    """A file in memory, as long as the volume, with its first and last bytes and zeroes between.

    Without `end` the last bytes are zeroes, too.
    """
    descriptor = os.memfd_create(volume.name, os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, volume.size)
        os.pwrite(descriptor, view.read(volume, 0, FRONT), 0)
        if end:
            os.pwrite(descriptor, view.read(volume, volume.size - END, END), volume.size - END)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
