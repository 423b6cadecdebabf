"""Writing to a volume past every cache."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from sm.errors import SmError


def write_blocks(path: Path, offset: int, raw: bytes) -> None:
    """Write whole blocks of 4096 bytes past the cache, durably, in one call."""
    descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, len(raw)) as buffer:
            buffer.write(raw)
            written = os.pwrite(descriptor, buffer, offset)
    finally:
        os.close(descriptor)
    if written != len(raw):
        raise SmError(f"{path}: {written} of {len(raw)} bytes were written", name="LVMWrite")


def flush(device: Path) -> None:
    """Have a device put all that it has confirmed to where a loss of power leaves it.

    Raises OSError where it cannot.
    """
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
