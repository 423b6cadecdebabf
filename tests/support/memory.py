"""Where files can be kept in memory: nothing is written to a disk, and a sync costs nothing."""

from __future__ import annotations

import os
from pathlib import Path

SHARED = Path("/dev/shm")


def memory_folder(mib: int) -> Path | None:
    """A folder in memory with room for so many MiB, where programs may be run; None without one."""
    if not os.access(SHARED, os.W_OK):
        return None
    told = os.statvfs(SHARED)
    roomy = told.f_bavail * told.f_frsize >= mib << 20
    return SHARED if roomy and not told.f_flag & os.ST_NOEXEC else None
