"""The refcounts that an image stores, in numpy, for every width from 1 to 64 bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.extents import Int64s
from sm.cowutil.parallel import each, parts
from sm.cowutil.qcow2.header import Header
from sm.cowutil.qcow2.pieces import Stored, twin
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.tables import SMALLEST_PART, TableBuffer

Counts = npt.NDArray[np.unsignedinteger[Any]]
"""Refcounts in the narrowest native type that holds their width."""

Octets = npt.NDArray[np.uint8]

BATCH_ENTRIES = 1 << 19
"""Refcounts decoded at once, so that the memory stays small whatever the width."""

TABLE_OFFSET_MASK = ~np.uint64(0x1FF)


class Refcounts:
    """The refcount table of one open image and the blocks that it leads to.

    `entries`: the table as native uint64. `offsets`: int64 file offset of each block, 0 where there
    is none or where the entry cannot be used (reserved bits, not aligned, beyond the file).
    Blocks that are holes of the file count as zeroes and are not read, where there are such.
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
        size = header.cluster_size
        stored = Stored(source, size, int(np.count_nonzero(self.offsets)) * size)
        self._used = self.offsets != 0
        if not stored.all:
            self._used &= stored(self.offsets)

    def windows(self, clusters: int) -> Iterator[tuple[int, Counts]]:
        """Give (first cluster, stored refcounts) for all blocks that exist, ascending.

        What is at or beyond cluster number `clusters` is left out.
        """
        for first, stored in self._stored(self._numbers(clusters), clusters):
            yield first, stored.view(stored.dtype.newbyteorder(">")).astype(stored.dtype)

    def in_use(self) -> tuple[int, int]:
        """Bytes in clusters with a refcount above zero, and the end of the last one of these.

        Exact while no space has leaked. Raises `ImageCorrupt` for two entries that name one block:
        they can make a small file a large work.
        """
        again = twin(self.offsets, self._header.cluster_size)
        if again is not None:
            where = self._header.refcount_offset + again * 8
            problem = f"names the block of another entry, at {self.offsets[again]}"
            raise ImageCorrupt(self._source.path, "refcount table entry", where, problem)
        size = self._header.cluster_size
        clusters = -(-self._source.size // size)
        numbers = self._numbers(clusters)
        found = each(
            lambda part: self._used_of(numbers[slice(*part)], clusters),
            parts(len(numbers), max(1, SMALLEST_PART // size)),
        )
        return sum(total for total, _ in found) * size, max(end for _, end in found) * size

    def _used_of(self, numbers: Int64s, clusters: int) -> tuple[int, int]:
        """How many clusters some blocks count as used, and the number behind the last of them."""
        total = end = 0
        for first, stored in self._stored(numbers, clusters):
            used = int(np.count_nonzero(stored))
            total += used
            if used == len(stored):
                end = first + used
            elif used:
                end = first + int(np.flatnonzero(stored)[-1]) + 1
        return total, end

    def _numbers(self, clusters: int) -> Int64s:
        """The numbers of the blocks that exist, and begin below cluster number `clusters`."""
        numbers = np.flatnonzero(self._used)
        return numbers[numbers * self.per_block < clusters]

    def _stored(self, numbers: Int64s, clusters: int) -> Iterator[tuple[int, Counts]]:
        """As `windows`, but in the byte order of the file, and valid until the next step only."""
        read = self._parts if self.per_block >= BATCH_ENTRIES else self._blocks
        for first, raw in read(numbers, clusters):
            yield first, unpack(raw, self._header.refcount_order)[: clusters - first]

    def _blocks(self, numbers: Int64s, clusters: int) -> Iterator[tuple[int, Octets]]:
        """Give (first cluster, bytes) of blocks, several that follow each other at once."""
        step = BATCH_ENTRIES // self.per_block
        buffer = TableBuffer(self._source, self._header.cluster_size, step)
        for group in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            for start in range(0, len(group), step):
                part = group[start : start + step]
                read = buffer.read(self.offsets[part])
                yield int(part[0]) * self.per_block, read.reshape(-1).view(np.uint8)

    def _parts(self, numbers: Int64s, clusters: int) -> Iterator[tuple[int, Octets]]:
        """The same for blocks so large that each is read in parts."""
        width = 1 << self._header.refcount_order
        buffer = np.empty(BATCH_ENTRIES * width // 8, dtype=np.uint8)
        for block in numbers.tolist():
            first = block * self.per_block
            for start in range(0, min(self.per_block, clusters - first), BATCH_ENTRIES):
                where = int(self.offsets[block]) + start * width // 8
                self._source.read_padded(where, buffer.data)
                yield first + start, buffer


def unpack(raw: Octets, order: int) -> Counts:
    """Refcounts of `1 << order` bits; those of more than 8 bits are in the order of the file.

    Below 8 bits the first refcount is in the lowest bits of its byte.
    """
    if order < 3:
        width = 1 << order
        shifts = np.arange(0, 8, width, dtype=np.uint8)
        return (raw[:, None] >> shifts & np.uint8((1 << width) - 1)).ravel()
    return raw.view(f"u{1 << order - 3}")
