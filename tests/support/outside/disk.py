"""A folder whose disk fills, fails or is slow, as processes see it: also while they run."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from tests.support.outside.shared import shared

Call = Literal["read", "write", "fsync", "allocate", "truncate", "open", "name"]
"""`open`: for writing, or what makes a file. `name`: renames, links, removals, new folders."""

CALLS: tuple[Call, ...] = get_args(Call)
CHANGES: tuple[Call, ...] = ("write", "allocate", "truncate", "open", "name")
RULES = 64
ALL = -1


class _Rule(ctypes.Structure):
    _fields_ = [
        ("active", ctypes.c_int64),
        ("kinds", ctypes.c_int64),
        ("error", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("nanoseconds", ctypes.c_int64),
        ("after", ctypes.c_int64),
        ("times", ctypes.c_int64),
        ("seen", ctypes.c_int64),
        ("met", ctypes.c_int64),
        ("pattern", ctypes.c_char * 128),
    ]


class _State(ctypes.Structure):
    """As `struct disk` in `shim/disk.c`."""

    _fields_ = [
        ("limited", ctypes.c_int64),
        ("told", ctypes.c_int64),
        ("left", ctypes.c_int64),
        ("refused", ctypes.c_int64),
        ("folder", ctypes.c_char * 4096),
        ("rules", _Rule * RULES),
    ]


class Fault:
    """One fault of a disk, which goes on until its calls are used up, or `end`."""

    def __init__(self, rule: _Rule) -> None:
        self._rule = rule

    @property
    def met(self) -> int:
        """How many calls it has met."""
        return int(self._rule.met)

    def end(self) -> None:
        """It meets no more calls."""
        self._rule.active = 0


class FailingDisk:
    """The disk below a folder, for all processes that have `environment` and that these start."""

    def __init__(self, state: _State, environment: dict[str, str]) -> None:
        self.environment = environment
        self._state = state
        self._faults: list[Fault] = []

    # Space

    def fill_after(self, size: int, *, told: bool = True) -> None:
        """From now on there is space for so many bytes, in blocks of 4 KiB.

        What is written over takes none; what is removed, cut off or punched gives it back. Who asks
        for the free space is told, unless not `told`: as if others wrote to the disk right after.
        """
        self._state.left, self._state.refused = size, 0
        self._state.told = told
        self._state.limited = 1

    @property
    def left(self) -> int:
        """The bytes for which there is space."""
        return max(0, int(self._state.left))

    @property
    def refused(self) -> int:
        """How many calls found too little space, since it was said how much there is."""
        return int(self._state.refused)

    # Faults

    def fail(
        self,
        call: Call,
        error: int,
        *,
        times: int = ALL,
        after: int = 0,
        names: str = "*",
        transferred: int = 0,
    ) -> Fault:
        """Have calls fail: `times` of them, when `after` others have been spared.

        `names`: a pattern for paths below the folder, in which `*` stands for slashes, too.
        `transferred`: of reads and writes, so many bytes are done before the error.
        """
        return self._add((call,), error, times, after, names, length=transferred)

    def shorten(
        self, call: Call, size: int, *, times: int = ALL, after: int = 0, names: str = "*"
    ) -> Fault:
        """Have reads or writes do only so many bytes, and say so, which is no error."""
        return self._add((call,), 0, times, after, names, length=size)

    def slow(
        self, call: Call, seconds: float, *, times: int = ALL, after: int = 0, names: str = "*"
    ) -> Fault:
        """Have calls take so much longer."""
        return self._add((call,), 0, times, after, names, seconds=seconds)

    def read_only(self) -> Fault:
        """Have all changes refused with EROFS, as after an error of the file system."""
        return self._add(CHANGES, errno.EROFS, ALL, 0, "*", length=0)

    def heal(self) -> None:
        """A good disk again, with space."""
        self._state.limited = 0
        for fault in self._faults:
            fault.end()

    def _add(
        self,
        calls: tuple[Call, ...],
        error: int,
        times: int,
        after: int,
        names: str,
        *,
        length: int = ALL,
        seconds: float = 0.0,
    ) -> Fault:
        rule = self._state.rules[len(self._faults)]
        rule.kinds = sum(1 << CALLS.index(call) for call in calls)
        rule.error, rule.length, rule.times, rule.after = error, length, times, after
        rule.nanoseconds = int(seconds * 1e9)
        rule.pattern = names.encode()
        # Last: from here on processes go by it.
        rule.active = 1
        self._faults.append(Fault(rule))
        return self._faults[-1]


@contextmanager
def failing_disk(folder: Path) -> Iterator[FailingDisk]:
    """A good disk below `folder`, until something else is said of it; it is healed at the end."""
    with shared("SM_TEST_DISK", _State) as (state, environment):
        state.folder = bytes(folder.resolve())
        disk = FailingDisk(state, environment)
        try:
            yield disk
        finally:
            disk.heal()
