"""Tools that tests of volumes run, and blocks as they are on a disk."""

from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path

from tests.support.patience import patient

TOOL_SECONDS = patient(60)
SECTOR = 512


def call(*command: str | Path) -> str:
    """Run a tool; returns its standard output, raises AssertionError with all it said."""
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=TOOL_SECONDS
    )
    words = " ".join(map(str, command))
    assert ended.returncode == 0, (
        f"{words}: status {ended.returncode}\n{ended.stdout}{ended.stderr}"
    )
    return ended.stdout


def size_of(device: Path) -> int:
    """The size of a block device in bytes, as the kernel has it now."""
    number = device.stat().st_rdev
    told = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/size").read_text()
    return int(told) * SECTOR


def write_durably(path: Path, offset: int, data: bytes) -> None:
    """Write to a file or device, and wait until it is there; raises OSError when it cannot be."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_direct(path: Path, offset: int, size: int) -> bytes:
    """Read past all caches; offset and size are multiples of the sector."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, size) as aligned:
            read = os.preadv(descriptor, [aligned], offset)
            return aligned[:read]
    finally:
        os.close(descriptor)
