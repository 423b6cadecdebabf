"""The space of a part of a file: giving it back, and keeping it ready."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache

KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
"""From linux/falloc.h."""


def punch_hole(descriptor: int, offset: int, length: int) -> bool:
    """Make a range of bytes a hole, which reads as zero; false where the file system has none."""
    return _fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, offset, length)


def keep_room(descriptor: int, offset: int, length: int) -> bool:
    """Have blocks ready for a range that the file may grow into; its length stays.

    False where the file system cannot; OSError with ENOSPC where there is too little space.
    """
    return _fallocate(descriptor, KEEP_SIZE, offset, length)


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> bool:
    if _function()(descriptor, mode, offset, length) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EOPNOTSUPP:
        return False
    raise OSError(number, os.strerror(number))


@cache
def _function() -> ctypes._NamedFuncPointer:
    function = ctypes.CDLL(None, use_errno=True).fallocate64
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function
