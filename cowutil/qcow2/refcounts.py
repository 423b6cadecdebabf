"""The refcounts that an image stores, in numpy, for every width from 1 to 64 bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sm.cowutil.extents import Int64s
from sm.cowutil.qcow2.header import Header
from sm.cowutil.qcow2.source import Source

Counts = npt.NDArray[np.unsignedinteger[Any]]
"""Refcounts in the narrowest native type that holds their width."""

BATCH_ENTRIES = 1 << 18
"""Refcounts decoded at once, so that the memory stays small whatever the width."""

TABLE_OFFSET_MASK = ~np.uint64(0x1FF)


class Refcounts:
    """The refcount table of one open image and the blocks that it leads to.

    `entries`: the table as native uint64. `offsets`: int64 file offset of each block, 0 where there
    is none or where the entry cannot be used (reserved bits, not aligned, beyond the file).
    """

    def __init__(self, source: Source, header: Header) -> None:
        self._source = source
        self._header = header
        length = header.refcount_clusters * header.cluster_size
        raw = source.read(header.refcount_offset, length, "refcount table")
        self.entries = np.frombuffer(raw, dtype=">u8").astype(np.uint64)
        self.per_block = header.cluster_size * 8 >> header.refcount_order
        usable = self.entries & np.uint64(header.cluster_size - 1) == 0
        usable &= self.entries < np.uint64(source.size)
        self.offsets: Int64s = np.where(usable, self.entries, np.uint64(0)).astype(np.int64)

    def windows(self, clusters: int) -> Iterator[tuple[int, Counts]]:
        """Give (first cluster, stored refcounts) for all blocks that exist, ascending.

        What is at or beyond cluster number `clusters` is left out.
        """
        numbers = np.flatnonzero(self.offsets)
        numbers = numbers[numbers * self.per_block < clusters]
        if self.per_block >= BATCH_ENTRIES:
            yield from self._parts(numbers, clusters)
            return
        step = BATCH_ENTRIES // self.per_block
        size = self._header.cluster_size
        for group in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            for start in range(0, len(group), step):
                part = group[start : start + step]
                buffer = bytearray(len(part) * size)
                for index, offset in enumerate(self.offsets[part].tolist()):
                    target = memoryview(buffer)[index * size : (index + 1) * size]
                    self._source.read_padded(offset, target)
                first = int(part[0]) * self.per_block
                yield first, decode(buffer, self._header.refcount_order)[: clusters - first]

    def _parts(self, numbers: Int64s, clusters: int) -> Iterator[tuple[int, Counts]]:
        """The same for blocks so large that each is decoded in parts."""
        width = 1 << self._header.refcount_order
        for block in numbers.tolist():
            first = block * self.per_block
            for start in range(0, min(self.per_block, clusters - first), BATCH_ENTRIES):
                buffer = bytearray(BATCH_ENTRIES * width // 8)
                where = int(self.offsets[block]) + start * width // 8
                self._source.read_padded(where, memoryview(buffer))
                stored = decode(buffer, self._header.refcount_order)
                yield first + start, stored[: clusters - first - start]

    def in_use(self) -> tuple[int, int]:
        """Bytes in clusters with a refcount above zero, and the end of the last one of these.

        Exact while no space has leaked.
        """
        size = self._header.cluster_size
        total = end = 0
        for first, stored in self.windows(-(-self._source.size // size)):
            used = np.flatnonzero(stored)
            total += len(used)
            end = first + int(used[-1]) + 1 if len(used) else end
        return total * size, end * size


def decode(raw: bytes | bytearray, order: int) -> Counts:
    """Refcounts of `1 << order` bits, native.

    Below 8 bits the first refcount is in the lowest bits of its byte; above, big-endian.
    """
    if order < 3:
        width = 1 << order
        octets = np.frombuffer(raw, dtype=np.uint8)[:, None]
        shifts = np.arange(0, 8, width, dtype=np.uint8)
        return (octets >> shifts & np.uint8((1 << width) - 1)).ravel()
    return np.frombuffer(raw, dtype=f">u{1 << order - 3}").astype(f"u{1 << order - 3}")
