"""The L1 table: where the L2 tables of the disk are. The largest legal one has 32 MiB.

It is read and judged some entries at a time, because all of them with what is computed of them
would take several times its size.
"""

from __future__ import annotations

import numpy as np

from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.extents import Int64s
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.header import Header
from sm.cowutil.qcow2.pieces import PIECE, Bools, Stored, twin, words_of
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.steps import Words

FIELD = "L1 entry"


def read_table_offsets(source: Source, header: Header) -> Int64s:
    """File offset of each L2 table that the disk needs, int64, zero where there is none.

    A table that is a hole of the file is left out, where there are such: it holds nothing. Raises
    `ImageCorrupt` for an entry that is not aligned or beyond the file, and for two that name the
    same table. Memory: 8 bytes for each entry, up to 16 where they are in no order.
    """
    offsets = np.zeros(header.l1_needed, dtype=np.int64)
    used, last, ascending = 0, 0, True
    for first, words in words_of(source, header.l1_offset, len(offsets), "L1 table"):
        part = offsets[first : first + len(words)]
        np.bitwise_and(words, np.uint64(layout.OFFSET_MASK), out=part.view(np.uint64))
        if int(np.bitwise_or.reduce(part)) & (header.cluster_size - 1):
            unaligned = part & (header.cluster_size - 1) != 0
            _refuse(source, header, first, words, unaligned, "is not aligned to a cluster")
        if int(part.max()) >= source.size:
            beyond = part >= source.size
            _refuse(source, header, first, words, beyond, "points beyond the end of the file")
        named = part if part.all() else part[part != 0]
        if ascending and len(named):
            ascending = int(named[0]) > last and bool((named[1:] > named[:-1]).all())
            last = int(named[-1])
        used += len(named)
    # What is in order is distinct; all images are that are written from front to back.
    again = None if ascending else twin(offsets, header.cluster_size)
    if again is not None:
        problem = f"names the L2 table of another entry, at {offsets[again]}"
        raise ImageCorrupt(source.path, FIELD, header.l1_offset + again * 8, problem)
    _leave_out_holes(source, offsets, header.cluster_size, used)
    return offsets


def _refuse(
    source: Source, header: Header, first: int, words: Words, bad: Bools, problem: str
) -> None:
    index = int(np.argmax(bad))
    place = header.l1_offset + (first + index) * 8
    raise ImageCorrupt(source.path, FIELD, place, f"{int(words[index]):#018x} {problem}")


def _leave_out_holes(source: Source, offsets: Int64s, size: int, used: int) -> None:
    stored = Stored(source, size, used * size)
    if stored.all:
        return
    for first in range(0, len(offsets), PIECE):
        part = offsets[first : first + PIECE]
        part[~stored(part)] = 0
