"""The check of a whole image: stored refcounts against what is really used.

The verdict is that of `qemu-img check`: corruptions where a refcount is too low or an entry cannot
be right, leaks where a refcount is too high.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.extents import Extents
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.bitmaps import read_bitmaps
from sm.cowutil.qcow2.findings import Findings
from sm.cowutil.qcow2.header import Header, read_header
from sm.cowutil.qcow2.pieces import words_of
from sm.cowutil.qcow2.refcounts import BATCH_ENTRIES, Counts, Refcounts
from sm.cowutil.qcow2.references import References
from sm.cowutil.qcow2.snapshots import snapshot_tables
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.walk import L1, Walk


def check_image(path: Path) -> Findings:
    """Examine all metadata of one image; its parents are not opened.

    A table that cannot be read at all is a finding too. Raises only what `read_header` does for an
    image that is refused as a whole (`ImageUnsupported`, `ImageUnsafe`, `ImageNotRecognised`).
    Memory: one byte for each cluster of the file that is in use, four where one is used more than
    127 times, and the decoded tables of one batch.
    """
    findings = Findings(path)
    try:
        with Source(path) as source:
            _Check(source, read_header(source), findings).run()
    except ImageCorrupt as error:
        findings.tables.add(str(error))
    return findings


class _Check:
    def __init__(self, source: Source, header: Header, findings: Findings) -> None:
        self._source = source
        self._header = header
        self._findings = findings
        self._refcounts = Refcounts(source, header)
        self._references = References(source, header, findings)

    def run(self) -> None:
        references = self._references
        references.note_single(self._refcounts)
        references.add_range(0, 1, 1, "header")
        header = self._header
        shared, length = snapshot_tables(self._source, header)
        references.add_range(header.snapshot_offset, length, 1, "snapshot table")
        entries = header.l1_entries + sum(map(itemgetter(1), shared))
        if entries * 8 > self._source.size:
            where = header.snapshot_offset
            raise ImageCorrupt(self._source.path, "snapshot L1 tables", where, "overlap each other")
        tables = [L1(header.l1_offset, header.l1_entries, times=1, active=True)]
        tables += [L1(*place, times=times, active=False) for place, times in shared.items()]
        walk = Walk(self._source, header, references, self._findings)
        walk.run([table for table in tables if table.entries or table.active])
        self._count_bitmaps()
        self._count_refcount_structures()
        self._compare()

    def _count_bitmaps(self) -> None:
        bitmaps, offset, length = read_bitmaps(self._source, self._header)
        references, source = self._references, self._source
        references.add_range(offset, length, 1, "bitmap directory")
        if sum(bitmap.table_entries * 8 for bitmap in bitmaps) > source.size:
            raise ImageCorrupt(source.path, "bitmap tables", offset, "overlap each other")
        for bitmap in bitmaps:
            where, entries = bitmap.table_offset, bitmap.table_entries
            references.add_range(where, entries * 8, 1, "bitmap table")
            wrong = 0
            for _, words in words_of(source, where, entries, "bitmap table"):
                offsets = (words & np.uint64(layout.OFFSET_MASK)).astype(np.int64)
                usable = offsets & (self._header.cluster_size - 1) == 0
                usable &= offsets < source.size
                wrong += int((~usable).sum())
                references.add(offsets[usable & (offsets != 0)])
            if wrong:
                text = f"bitmap table at byte {where}: {wrong} bad entries"
                self._findings.tables.add(text, wrong)

    def _count_refcount_structures(self) -> None:
        header, refcounts, counts = self._header, self._refcounts, self._findings.counts
        size = header.refcount_clusters * header.cluster_size
        self._references.add_range(header.refcount_offset, size, 1, "refcount table")
        unusable = np.flatnonzero((refcounts.entries != 0) & (refcounts.offsets == 0))
        for index in unusable[:20].tolist():
            where = header.refcount_offset + index * 8
            counts.add(f"refcount table entry at byte {where}: not a cluster inside the file")
        if len(unusable) > 20:
            counts.add("more such refcount table entries", len(unusable) - 20)
        blocks = refcounts.offsets[refcounts.offsets != 0]
        self._references.add(blocks)
        shared = blocks[self._references.times(blocks) != 1]
        for offset in shared[:20].tolist():
            counts.add(f"refcount block at byte {offset} is also used for something else")
        if len(shared) > 20:
            counts.add("more such refcount blocks", len(shared) - 20)

    def _compare(self) -> None:
        for first, stored in self._all_windows():
            used = self._references.window(first, len(stored))
            end = first + _end(used)
            if end > first:
                self._findings.used_end = end * self._header.cluster_size
            # The comparison is several times faster when both have one type.
            same = np.promote_types(stored.dtype, used.dtype)
            if np.array_equal(stored.astype(same, copy=False), used.astype(same, copy=False)):
                continue
            too_low = Extents.from_bitmap(stored < used, 1)
            too_high = Extents.from_bitmap(stored > used, 1)
            for start, stop in list(too_low)[:20]:
                text = f"host clusters {first + start} to {first + stop - 1}: refcount too low"
                self._findings.counts.add(text, stop - start)
            for start, stop in list(too_high)[:20]:
                text = f"host clusters {first + start} to {first + stop - 1}: leaked"
                self._findings.leaks.add(text, stop - start)

    def _all_windows(self) -> Iterator[tuple[int, Counts]]:
        """Stored refcounts of all clusters of the file; zeros where there is no block."""
        clusters, position = self._references.clusters, 0
        for first, stored in self._refcounts.windows(clusters):
            yield from _zeros(position, first)
            yield first, stored
            position = first + len(stored)
        yield from _zeros(position, clusters)


def _end(used: npt.NDArray[np.integer[Any]]) -> int:
    """How many entries there are up to the last one that is not zero."""
    if used[-1]:
        return len(used)
    places = np.flatnonzero(used)
    return int(places[-1]) + 1 if len(places) else 0


def _zeros(start: int, end: int) -> Iterator[tuple[int, Counts]]:
    for first in range(start, end, BATCH_ENTRIES):
        yield first, np.zeros(min(BATCH_ENTRIES, end - first), dtype=np.uint8)
