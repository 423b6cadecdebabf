"""What is different when an image is a block device, which several hosts may have in common."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def forget_cached(descriptor: int) -> None:
    """Drop what this host remembers of a device, so that reads show what others wrote to it.

    A kernel forgets a device by itself only when nobody has it open any more. What this host wrote
    and did not sync is kept. Nothing is done for a file, whose file system sees to that.
    """
    if stat.S_ISBLK(os.fstat(descriptor).st_mode):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def is_sealed(path: Path) -> bool:
    """Whether `path` is a device that this host may only read."""
    if not path.is_block_device():
        return False
    number = path.stat().st_rdev
    place = Path("/sys/dev/block", f"{os.major(number)}:{os.minor(number)}", "ro")
    return place.read_text(encoding="ascii").strip() != "0"
