"""Tables of 64-bit entries, some at a time, and what of them a sparse file really has.

A table may lie in a hole of its file: thousands of GiB of zeroes that cost whoever made it nothing.
So what is a hole is not read, and the work is bounded by the bytes that the file takes on its disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt

from sm.cowutil.extents import Int64s
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.steps import Words

Bools = npt.NDArray[np.bool_]

PIECE = 1 << 15
"""Entries handled at once; with all that is computed of them they fit the cache."""

SPREAD = 4
"""Entries are counted by place where there are at most so many places for each; else sorted."""


def words_of(source: Source, offset: int, entries: int, field: str) -> Iterator[tuple[int, Words]]:
    """Give (first index, entries as native uint64) of a table; what is left out is zero.

    The entries are valid until the next step. `ImageCorrupt` naming `field` if the table is not
    within the file.
    """
    source.require(offset, entries * 8, field)
    memory = memoryview(bytearray(min(PIECE, entries) * 8))
    native = np.empty(len(memory) // 8, dtype=np.uint64)
    first = 0
    while first < entries:
        first = max(first, (source.next_data(offset + first * 8) - offset) // 8)
        count = min(PIECE, entries - first)
        if count <= 0:
            return
        part = memory[: count * 8]
        source.read_padded(offset + first * 8, part)
        words = native[:count]
        np.copyto(words, np.frombuffer(part, dtype=">u8"))
        yield first, words
        first += count


class Stored:
    """Which pieces of `length` bytes a file has at all; all of them together have `claimed`.

    Where the file takes no fewer bytes than that, nothing is asked: to read all is no more work
    than it was to write the file. Memory: 16 bytes for each data extent of the file.
    """

    def __init__(self, source: Source, length: int, claimed: int) -> None:
        self._length = length
        self._ranges: Int64s | None = None
        if claimed > source.allocated:
            edges = np.fromiter(chain.from_iterable(source.data_ranges()), dtype=np.int64)
            self._ranges = edges.reshape(-1, 2)

    @property
    def all(self) -> bool:
        """Whether all pieces count as stored."""
        return self._ranges is None

    def __call__(self, offsets: Int64s) -> Bools:
        """Whether any byte of the piece at each offset is not in a hole."""
        if self._ranges is None:
            return np.ones(len(offsets), dtype=np.bool_)
        starts, ends = self._ranges[:, 0], self._ranges[:, 1]
        index = np.searchsorted(ends, offsets, side="right")  # the first that ends behind it
        stored: Bools = index < len(ends)
        stored[stored] = starts[index[stored]] < offsets[stored] + self._length
        return stored


def twin(offsets: Int64s, unit: int) -> int | None:
    """Index of an entry that names the same place as one before it, or None.

    `offsets`: multiples of `unit`, zero for entries that name nothing, in any order.
    """
    last = int(offsets.max(initial=0)) // unit
    used = int(np.count_nonzero(offsets))
    if last < SPREAD * used:
        place = _counted_twice(offsets, unit, last + 1)
    else:
        place = _sorted_twice(offsets, unit, last)
    if place is None:
        return None
    equal = offsets == place
    first = int(np.argmax(equal)) + 1
    return first + int(np.argmax(equal[first:]))


def _counted_twice(offsets: Int64s, unit: int, places: int) -> int | None:
    """A place that is named twice; at 3 ns an entry, and two bytes for each place."""
    counts = np.zeros(places, dtype=np.uint16)
    for first in range(0, len(offsets), PIECE):
        numbers = offsets[first : first + PIECE] // unit
        numbers = numbers[numbers != 0]
        # Those of earlier pieces are at most 1, so a piece cannot make a count overflow.
        np.add.at(counts, numbers, np.uint16(1))
        again = counts[numbers] > 1
        if again.any():
            return int(numbers[np.argmax(again)]) * unit
    return None


def _sorted_twice(offsets: Int64s, unit: int, last: int) -> int | None:
    """The same at 60 ns an entry, whatever the places."""
    numbers = np.empty(len(offsets), dtype=np.uint32 if last < 1 << 32 else np.int64)
    np.floor_divide(offsets, unit, out=numbers, casting="unsafe")
    numbers.sort()
    again = numbers[1:] == numbers[:-1]
    again &= numbers[1:] != 0
    return int(numbers[np.argmax(again)]) * unit if again.any() else None
