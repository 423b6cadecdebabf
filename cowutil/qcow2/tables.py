"""Reading L1 and L2 tables: large reads, every offset checked, bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from sm.cowutil.extents import ExtentMap, Int64s
from sm.cowutil.parallel import Part, each, parts
from sm.cowutil.qcow2.header import Header
from sm.cowutil.qcow2.level_one import read_table_offsets
from sm.cowutil.qcow2.pieces import PIECE
from sm.cowutil.qcow2.runs import Classifier, concatenate, empty_map
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.steps import StepFinder, Words

BATCH_BYTES = 1 << 20
"""L2 tables handled at once, at least one. With what is computed of them they fit the cache, and
they are enough work for two threads not to wait for each other."""

SMALLEST_PART = 8 << 20
"""Bytes of tables that are worth a thread."""

AHEAD = 256
"""How many tables the kernel is told of in advance: halves the time of a scan from cold disks."""


class Tables:
    """The active L1 table of one open image and the L2 tables that it leads to."""

    def __init__(self, source: Source, header: Header) -> None:
        self._source = source
        self._header = header
        self._classifier = Classifier(source.path, header, source.size)
        self.offsets = read_table_offsets(source, header)
        """File offset of each L2 table, int64, zero where there is none."""

    @property
    def span(self) -> int:
        """Guest bytes that one L2 table maps."""
        return self._header.table_entries * self._header.cluster_size

    @property
    def path(self) -> Path:
        """The image, for error messages."""
        return self._source.path

    @property
    def file_size(self) -> int:
        """Bytes of the file or volume."""
        return self._source.size

    def parts(self) -> list[Part]:
        """Ranges of L1 indices that are worth a thread each."""
        return parts(len(self.offsets), max(1, SMALLEST_PART // self._header.cluster_size))

    def batches(self, part: Part) -> Iterator[tuple[Int64s, Words]]:
        """Give (L1 indices, L2 tables as big-endian words), ascending, as many as fit the cache.

        `part` is a range of L1 indices. The tables, shape (tables, words), are valid until the next
        batch.
        """
        step = max(1, BATCH_BYTES // self._header.cluster_size)
        if self._header.extended:
            step = max(1, step // 4)  # each entry may become 32 runs
        buffer = TableBuffer(self._source, self._header.cluster_size, step)
        for start in range(*part, PIECE):
            used = np.flatnonzero(self.offsets[start : min(start + PIECE, part[1])])
            used += start
            for first in range(0, len(used), step):
                if first % AHEAD < step:
                    self._announce(self.offsets[used[first : first + AHEAD + step]])
                batch = used[first : first + step]
                yield batch, buffer.read(self.offsets[batch])

    def map_parts(self, part: Part | None = None) -> Iterator[ExtentMap]:
        """The map of the whole image, or of a part, some tables at a time, ascending."""
        finder = StepFinder(self._header.cluster_size)
        for batch, tables in self.batches(part or (0, len(self.offsets))):
            found = None if self._header.extended else self._stepwise(batch, tables, finder)
            yield self.entrywise(batch, tables) if found is None else found

    def map(self) -> ExtentMap:
        """Everything that the image holds."""
        found = each(lambda part: list(self.map_parts(part)), self.parts())
        return concatenate([some for part in found for some in part])

    def map_range(self, start: int, end: int) -> tuple[ExtentMap, Words]:
        """What the image holds of the guest bytes from `start` to `end` of one L2 table's span.

        Both lie within the span of one table. Whole clusters are reported. Also gives the entries
        as read, native uint64, from the cluster of `start` on (shape (n, 2) with extended L2).
        """
        header = self._header
        index, base = start // self.span, start // header.cluster_size * header.cluster_size
        count = -(-(end - base) // header.cluster_size)
        table = int(self.offsets[index])
        if table == 0:
            return empty_map(), np.zeros(0, dtype=np.uint64)
        first = (base - index * self.span) // header.cluster_size
        where = table + first * header.entry_bytes
        buffer = bytearray(count * header.entry_bytes)
        self._source.read_padded(where, memoryview(buffer))
        words = np.frombuffer(buffer, dtype=">u8").astype(np.uint64)
        if header.extended:
            words = words.reshape(-1, 2)
        guest = base + np.arange(count, dtype=np.int64) * header.cluster_size
        places = where + np.arange(count, dtype=np.int64) * header.entry_bytes
        length = np.full(count, header.cluster_size, dtype=np.int64)
        return self._classifier.runs(words, guest, places, length), words

    def _announce(self, offsets: Int64s) -> None:
        for start, length in adjacent(offsets, self._header.cluster_size):
            os.posix_fadvise(self._source.descriptor, start, length, os.POSIX_FADV_WILLNEED)

    def _stepwise(self, batch: Int64s, tables: Words, finder: StepFinder) -> ExtentMap | None:
        """Runs of some whole tables of standard entries, or None where these are too mixed."""
        header = self._header
        jumps = (np.flatnonzero(np.diff(batch) != 1) + 1) * header.table_entries
        steps = finder.find(finder.native(tables.reshape(-1)), jumps)
        if steps is None:
            return None
        row, column = np.divmod(steps.first, header.table_entries)
        guest = batch[row] * self.span + column * header.cluster_size
        where = self.offsets[batch[row]] + column * header.entry_bytes
        return self._classifier.runs(steps.words, guest, where, steps.count * header.cluster_size)

    def entrywise(self, batch: Int64s, tables: Words) -> ExtentMap:
        """Runs of some whole tables; entries that are zero are dropped before anything else."""
        header = self._header
        per_entry = header.entry_bytes // 8
        entries = tables.reshape(-1, per_entry)
        used = np.flatnonzero(entries[:, 0] if per_entry == 1 else entries.any(axis=1))
        words = entries[used].astype(np.uint64)
        row, column = np.divmod(used, header.table_entries)
        guest = batch[row] * self.span + column * header.cluster_size
        where = self.offsets[batch[row]] + column * header.entry_bytes
        length = np.full(len(used), header.cluster_size, dtype=np.int64)
        return self._classifier.runs(words if per_entry == 2 else words[:, 0], guest, where, length)


class TableBuffer:
    """Memory for some tables of `size` bytes, used again for each batch."""

    def __init__(self, source: Source, size: int, count: int) -> None:
        self._source = source
        self._size = size
        self._memory = memoryview(bytearray(size * count))

    def read(self, offsets: Int64s) -> Words:
        """The tables as big-endian words, shape (tables, words); valid until the next call.

        Neighbours in the file are read together.
        """
        done = 0
        for start, length in adjacent(offsets, self._size):
            self._source.read_padded(start, self._memory[done : done + length])
            done += length
        words = np.frombuffer(self._memory[:done], dtype=">u8")
        return words.reshape(len(offsets), self._size // 8)


def adjacent(offsets: Int64s, size: int) -> Iterable[tuple[int, int]]:
    """Group `offsets` of pieces of `size` bytes into (start, length) of single reads."""
    apart = offsets[1:] - offsets[:-1] != size
    if len(offsets) and not apart.any():  # as a rule; it saves a tenth of a whole scan
        return [(int(offsets[0]), len(offsets) * size)]
    breaks = np.flatnonzero(apart) + 1
    firsts = np.concatenate(([0], breaks)) if len(offsets) else breaks
    counts = np.diff(np.append(firsts, len(offsets)))
    return zip(offsets[firsts].tolist(), (counts * size).tolist(), strict=True)
