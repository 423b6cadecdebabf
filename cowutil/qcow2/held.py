"""Which guest bytes an image holds, without where: several times cheaper than the map.

A batch of tables is tested as it was read: in a big-endian word whose bytes are taken in reverse,
the flags from bit 56 up are the lowest byte, so an entry holds something where it exceeds 255.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sm.cowutil.errors import ImageUnsupported
from sm.cowutil.extents import Bits, Extents, Int64s
from sm.cowutil.parallel import Part, each
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.header import Header
from sm.cowutil.qcow2.steps import Words
from sm.cowutil.qcow2.tables import Tables

OFFSET = np.uint64(layout.OFFSET_MASK)
FLAGS_BYTE = 0xFF
LOW_RESERVED = 0x1FE
"""Reserved bits of a standard entry that lie below the offset."""

SAMPLE = 1024
"""One entry of so many says whether tables may be full, as most of a used disk are: to see that
they are takes a third of the time of testing each entry."""

MAX_BITS = 1 << 32
"""Clusters of a bitmap: 512 MiB of it, for 256 TiB at 64 KiB clusters."""

Bools = npt.NDArray[np.bool_]

ALL: Bools = np.ones(0, dtype=np.bool_)
"""Stands for an array of any length with nothing false in it."""


def held_extents(tables: Tables, header: Header) -> Extents:
    """Everything that the image holds; errors as for the map."""
    if header.extended or _clusters(header) > MAX_BITS:
        return tables.map().extents()
    return Extents.from_bits(held_bitmap(tables, header), header.cluster_size, header.size)


def held_size(tables: Tables, header: Header) -> int:
    """How many bytes that is, with little memory."""
    return sum(each(lambda part: _held_size(tables, header, part), tables.parts()))


def _held_size(tables: Tables, header: Header, part: Part) -> int:
    total = 0
    for batch, read in tables.batches(part):
        held = _plain(tables, header, batch, read)
        if held is None:
            total += int(tables.entrywise(batch, read).length.sum())
            continue
        if held is ALL:
            total += read.size * header.cluster_size
            continue
        total += int(np.count_nonzero(held)) * header.cluster_size
        cut = header.size % header.cluster_size
        if cut and batch[-1] == len(tables.offsets) - 1:
            last = header.size // header.cluster_size - int(batch[-1]) * header.table_entries
            place = (len(batch) - 1) * header.table_entries + last
            total -= (header.cluster_size - cut) * int(held[place])
    return total


def held_bitmap(tables: Tables, header: Header) -> Bits:
    """One bit for each guest cluster, whether the image holds any byte of it.

    uint8; the first cluster is the highest bit of the first byte, as `np.packbits` has it. Raises
    `ImageUnsupported` beyond `MAX_BITS` clusters.
    """
    clusters = _clusters(header)
    if clusters > MAX_BITS:
        raise ImageUnsupported(tables.path, f"{clusters} clusters", "use its extents")
    packed = np.zeros((len(tables.offsets), header.table_entries // 8), dtype=np.uint8)

    def pack(part: Part) -> None:
        for batch, read in tables.batches(part):
            held = _plain(tables, header, batch, read)
            if held is ALL:
                packed[batch] = 0xFF
                continue
            if held is None:
                held = _touched(tables, header, batch, read)
            packed[batch] = np.packbits(held).reshape(len(batch), -1)

    each(pack, tables.parts())
    return packed.reshape(-1)[: -(-clusters // 8)]


def _clusters(header: Header) -> int:
    return -(-header.size // header.cluster_size)


def _plain(tables: Tables, header: Header, batch: Int64s, read: Words) -> Bools | None:
    """One boolean for each entry of some tables, or `ALL` where all are true, or None.

    None where entries need a closer look: with compressed clusters, with subclusters, and where
    something has to be refused.
    """
    if header.extended:
        return None
    words = read.reshape(-1).view("<i8")  # signed is faster; the sign is a reserved bit
    reverse = int(np.bitwise_or.reduce(words))
    union = int.from_bytes(reverse.to_bytes(8, "little", signed=True), "big")
    strange = layout.FLAG_COMPRESSED | LOW_RESERVED
    strange |= layout.OFFSET_MASK & (header.cluster_size - 1)
    if header.version == 2:
        strange |= layout.FLAG_ZERO
    if union & strange:
        return None
    # No offset is above the union of all, so mostly that settles it.
    beyond = union & layout.OFFSET_MASK >= tables.file_size
    if beyond and int((read.astype(np.uint64) & OFFSET).max()) >= tables.file_size:
        return None
    last = batch[-1] == len(tables.offsets) - 1
    full = bool((words[::SAMPLE] > FLAGS_BYTE).all()) and int(words.min()) > FLAGS_BYTE
    if full and not last:
        return ALL
    held: Bools = words > FLAGS_BYTE
    if last:
        count = _clusters(header) - int(batch[-1]) * header.table_entries
        held[(len(batch) - 1) * header.table_entries + count :] = False
    return held


def _touched(tables: Tables, header: Header, batch: Int64s, read: Words) -> Bools:
    """One boolean for each entry of some tables: whether anything of its cluster is held."""
    found = tables.entrywise(batch, read)
    first = found.start // header.cluster_size
    count = -(-(found.start + found.length) // header.cluster_size) - first
    begin = np.cumsum(count) - count
    numbers = np.repeat(first - begin, count) + np.arange(int(count.sum()))
    table, column = np.divmod(numbers, header.table_entries)
    held = np.zeros(len(batch) * header.table_entries, dtype=np.bool_)
    held[np.searchsorted(batch, table) * header.table_entries + column] = True
    return held
