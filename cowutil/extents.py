"""Sorted, disjoint byte ranges as numpy arrays, and the set algebra on them.

Everything that talks about allocation talks in these: half-open ranges of guest bytes, so that
images with different cluster sizes can be compared and merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
"""A one-dimensional array of signed 64-bit byte counts or offsets."""


Bits = npt.NDArray[np.uint8]
"""Eight bits in each byte, the first one highest, as `np.packbits` has it."""

BITS_AT_ONCE = 1 << 18


class Extents:
    """An immutable set of bytes: `starts[i] <= byte < ends[i]`, ascending, never touching.

    `starts` and `ends` are int64 arrays of the same length n.
    """

    __slots__ = ("ends", "starts")

    def __init__(self, starts: Int64s, ends: Int64s) -> None:
        """Take arrays that are already sorted, disjoint and merged; use `of` for any others."""
        self.starts = starts
        self.ends = ends

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> Extents:
        """Build from any (start, end) pairs, half-open, in any order, overlapping or not."""
        table = np.array(list(ranges), dtype=np.int64).reshape(-1, 2)
        return cls.from_ranges(table[:, 0], table[:, 1])

    @classmethod
    def from_ranges(cls, starts: Int64s, ends: Int64s) -> Extents:
        """Build from arrays of starts and ends in any order; empty ranges are dropped."""
        keep = ends > starts
        starts, ends = starts[keep], ends[keep]
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], ends[order]
        if len(starts) == 0:
            return cls(starts, ends)
        reach = np.maximum.accumulate(ends)
        first = np.ones(len(starts), dtype=bool)
        first[1:] = starts[1:] > reach[:-1]
        last = np.append(first[1:], True)
        return cls(starts[first], reach[last])

    @classmethod
    def any_of(cls, sets: Iterable[Extents]) -> Extents:
        """The bytes of any of the sets, which are taken one by one."""
        found = cls.of(())
        for each in sets:
            found = found.union(each)
        return found

    @classmethod
    def from_bitmap(cls, bits: npt.NDArray[np.bool_], unit: int) -> Extents:
        """Build from one boolean for each `unit` bytes of the disk."""
        return cls.from_bits(np.packbits(bits), unit, len(bits) * unit)

    @classmethod
    def from_bits(cls, bits: Bits, unit: int, size: int) -> Extents:
        """Build from one bit for each started `unit` of a disk of `size` bytes."""
        count = -(-size // unit)
        # Counted first, because writing to memory twice costs more than looking at bits twice.
        edges = sum(int(np.count_nonzero(changes)) for _, changes in _changes(bits, count))
        starts = np.empty((edges + 1) // 2, dtype=np.int64)
        ends = np.empty(len(starts), dtype=np.int64)
        ends[-1:] = count  # unless there is an edge for it
        done = 0
        for first, changes in _changes(bits, count):
            places = np.flatnonzero(changes)
            places += first
            reached = done + len(places)
            begun, ended = (
                slice((done + 1) // 2, (reached + 1) // 2),
                slice(done // 2, reached // 2),
            )
            starts[begun] = places[done % 2 :: 2]
            ends[ended] = places[1 - done % 2 :: 2]
            starts[begun] *= unit
            ends[ended] *= unit
            done = reached
        if edges % 2:
            ends[-1:] *= unit
        ends[-1:] = np.minimum(ends[-1:], size)
        return cls(starts, ends)

    def to_bitmap(self, unit: int, size: int) -> npt.NDArray[np.bool_]:
        """One boolean for each started `unit` of `size` bytes: whether any byte is in the set."""
        count = -(-size // unit)
        edges = np.zeros(count + 1, dtype=np.int32)
        inside = self.clip(0, size)
        np.add.at(edges, inside.starts // unit, 1)
        np.add.at(edges, -(-inside.ends // unit), -1)
        bits: npt.NDArray[np.bool_] = np.cumsum(edges[:-1]) > 0
        return bits

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.starts.tolist(), self.ends.tolist(), strict=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Extents):
            return NotImplemented
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.ends, other.ends)

    def __hash__(self) -> int:
        return hash((self.starts.tobytes(), self.ends.tobytes()))

    def __repr__(self) -> str:
        return f"Extents.of({list(self)[:8]}{'...' if len(self) > 8 else ''})"

    @property
    def total(self) -> int:
        """How many bytes the set holds."""
        return int((self.ends - self.starts).sum())

    def union(self, other: Extents) -> Extents:
        """The bytes of either set."""
        return Extents.from_ranges(
            np.concatenate((self.starts, other.starts)), np.concatenate((self.ends, other.ends))
        )

    def intersect(self, other: Extents) -> Extents:
        """The bytes of both sets."""
        return self._sweep(other, both=True)

    def minus(self, other: Extents) -> Extents:
        """The bytes of this set that `other` lacks."""
        return self._sweep(other, both=False)

    def clip(self, start: int, end: int) -> Extents:
        """The bytes of this set from `start` up to `end`."""
        starts = np.clip(self.starts, start, end)
        ends = np.clip(self.ends, start, end)
        keep = ends > starts
        return Extents(starts[keep], ends[keep])

    def align(self, unit: int) -> Extents:
        """The smallest set of whole `unit`-sized blocks that holds all of this one."""
        return Extents.from_ranges(self.starts // unit * unit, -(-self.ends // unit) * unit)

    def covers(self, other: Extents) -> bool:
        """Whether every byte of `other` is in this set."""
        return len(other.minus(self)) == 0

    def _sweep(self, other: Extents, *, both: bool) -> Extents:
        """Cut the line at every edge and keep the pieces that are in self and (not) in other."""
        points = np.unique(np.concatenate((self.starts, self.ends, other.starts, other.ends)))
        if len(points) < 2:
            return Extents(points[:0], points[:0])
        lows, highs = points[:-1], points[1:]
        keep = self._contains(lows) & (other._contains(lows) == both)
        return Extents.from_ranges(lows[keep], highs[keep])

    def _contains(self, offsets: Int64s) -> npt.NDArray[np.bool_]:
        index = np.searchsorted(self.starts, offsets, side="right") - 1
        inside: npt.NDArray[np.bool_] = index >= 0
        inside[inside] = self.ends[index[inside]] > offsets[inside]
        return inside


def _changes(bits: Bits, count: int) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Give (first bit, for each bit whether it differs from the one before), some at a time.

    What is before the first bit counts as 0.
    """
    window = np.zeros(BITS_AT_ONCE + 1, dtype=np.uint8)
    for first in range(0, count, BITS_AT_ONCE):
        length = min(BITS_AT_ONCE, count - first)
        part = bits[first // 8 : (first + BITS_AT_ONCE) // 8]
        window[1 : length + 1] = np.unpackbits(part, count=length)
        yield first, window[1 : length + 1] != window[:length]
        window[0] = window[length]


class Kind(IntEnum):
    """What an image holds for a range of the disk; a range that it does not hold is absent."""

    DATA = 1
    ZERO = 2
    COMPRESSED = 3


@dataclass(frozen=True, slots=True, eq=False)
class ExtentMap:
    """Where one image keeps the guest bytes that it holds itself, ascending by guest offset.

    All arrays have the same length. `start`, `length`: guest bytes, int64. `kind`: `Kind` as
    uint8. `offset`: byte offset in the file where the data begins, int64; -1 for `ZERO` without a
    cluster of its own. Neighbours are merged where guest and file offsets both continue.
    """

    start: Int64s
    length: Int64s
    kind: npt.NDArray[np.uint8]
    offset: Int64s

    def extents(self, *kinds: Kind) -> Extents:
        """The guest bytes held, or only those of the given kinds."""
        chosen = np.isin(self.kind, kinds) if kinds else np.ones(len(self.kind), dtype=bool)
        start = self.start[chosen]
        return Extents.from_ranges(start, start + self.length[chosen])
