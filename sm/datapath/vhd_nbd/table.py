"""Where each byte of a disk is: resolved once for each unit, then looked up without a lock.

An entry is never changed, only dropped; a reader that still has a dropped one sees the disk as it
was when the write that dropped it was not yet acknowledged.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from threading import RLock
from typing import Protocol

import numpy as np

from sm.cowutil.raw import SECTOR
from sm.datapath.vhd_nbd.layers import NOBODY, UNIT, Window

Simple = tuple[int, int]
"""(descriptor, shift) of a whole unit; the byte at disk offset o is at o + shift in the file."""

Runs = tuple["array[int]", "array[int]", "array[int]"]
"""Start, descriptor and shift of each run of a unit; each ends where the next begins."""

Run = tuple[int, int, int, int]
"""(descriptor, shift, start, end), descriptor `NOBODY` where it reads as zero."""

MAX_RUNS = 1 << 18
"""Kept in all: 30 to 60 MB. Then all are forgotten."""


class Painter(Protocol):
    """Those who know who holds what."""

    def __call__(self, window: Window) -> None:
        """Paint the window from the base up."""


class RunTable:
    """The runs of a disk of `size` bytes. `lock` is held while a unit is resolved or dropped."""

    def __init__(self, size: int, paint: Painter, lock: RLock) -> None:
        self._size = size
        self._paint = paint
        self._lock = lock
        self._entries: dict[int, Simple | Runs] = {}
        self._kept = 0

    def simple(self, offset: int, length: int) -> Simple | None:
        """The one run that `length` bytes from `offset` are in, if that is known without work."""
        number = offset // UNIT
        entry = self._entries.get(number)
        if entry is None or (offset + length - 1) // UNIT != number:
            return None
        if len(entry) == 2:
            return entry
        starts, owners, shifts = entry
        index = bisect_right(starts, offset) - 1
        if index + 1 == len(starts) or starts[index + 1] >= offset + length:
            return owners[index], shifts[index]
        return None

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """The runs of `length` bytes from `offset`, in order."""
        end = offset + length
        while offset < end:
            number = offset // UNIT
            stop = min(end, (number + 1) * UNIT)
            entry = self._entries.get(number) or self._resolve(number)
            if len(entry) == 2:
                yield *entry, offset, stop
                offset = stop
                continue
            starts, owners, shifts = entry
            index = bisect_right(starts, offset) - 1
            while offset < stop:
                behind = starts[index + 1] if index + 1 < len(starts) else stop
                last = min(stop, behind)
                yield owners[index], shifts[index], offset, last
                offset = last
                index += 1

    def drop(self, offset: int, length: int) -> None:
        """Forget what was resolved of a range; with the lock held, before its write is answered."""
        for number in range(offset // UNIT, (offset + length - 1) // UNIT + 1):
            entry = self._entries.pop(number, None)
            if entry is not None:
                self._kept -= _weight(entry)

    def put(self, number: int, entry: Simple | Runs) -> None:
        """Keep what is known of a unit that is not kept; with the lock held."""
        if self._kept > MAX_RUNS:
            self.clear()
        self._entries[number] = entry
        self._kept += _weight(entry)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries = {}
            self._kept = 0

    def _resolve(self, number: int) -> Simple | Runs:
        with self._lock:
            found = self._entries.get(number)
            if found is not None:
                return found
            window = Window(number * UNIT, min((number + 1) * UNIT, self._size))
            self._paint(window)
            entry = _entry(window)
            self.put(number, entry)
            return entry


def _weight(entry: Simple | Runs) -> int:
    return 1 if len(entry) == 2 else len(entry[0])


def _entry(window: Window) -> Simple | Runs:
    owner, shift = window.owner, window.shift
    shift[owner == NOBODY] = 0
    changes = np.flatnonzero((owner[1:] != owner[:-1]) | (shift[1:] != shift[:-1])) + 1
    first = np.concatenate((np.zeros(1, dtype=np.int64), changes))
    if len(first) == 1:
        return int(owner[0]), int(shift[0])
    return (
        array("q", (first * SECTOR + window.start).tobytes()),
        array("q", owner[first].tobytes()),
        array("q", shift[first].tobytes()),
    )
