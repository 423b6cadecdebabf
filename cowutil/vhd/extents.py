"""From sector bitmaps to maps of what an image holds, a window of blocks at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sm.cowutil.extents import ExtentMap, Int64s, Kind
from sm.cowutil.vhd.block_file import BlockFile
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.header import UNUSED
from sm.cowutil.vhd.headers import Headers
from sm.cowutil.vhd.tables import Tables, read_bitmaps

BATCH = 256
"""Blocks whose bits are spread out at a time: 1 MiB of booleans."""


def held(file: BlockFile, headers: Headers, tables: Tables, first: int, last: int) -> ExtentMap:
    """What the blocks from `first` up to `last` (exclusive) hold, to the sector.

    A sector whose bit is clear is absent in a dynamic disk too: some writers leave garbage there.
    """
    header = headers.header
    used = np.flatnonzero(tables.bat[first:last] != UNUSED) + first
    full = tables.full[used]
    whole, partial = [used[full]], used[~full]
    starts: list[Int64s] = []
    lengths: list[Int64s] = []
    for at in range(0, len(partial), BATCH):
        blocks = partial[at : at + BATCH]
        bits = sector_bits(read_bitmaps(file, headers, tables.bat[blocks]), header.block_size)
        complete = bits.all(axis=1)
        whole.append(blocks[complete])
        start, length = _runs(blocks[~complete], bits[~complete], header.block_size)
        starts.append(start)
        lengths.append(length)
    blocks = np.concatenate(whole)
    starts.append(blocks * header.block_size)
    lengths.append(np.full(len(blocks), header.block_size, dtype=np.int64))
    return _in_order(headers, tables, np.concatenate(starts), np.concatenate(lengths))


def sector_bits(bitmaps: npt.NDArray[np.uint8], block_size: int) -> npt.NDArray[np.bool_]:
    """Bitmaps as stored, shape (n, bytes), to one boolean for each sector, shape (n, sectors)."""
    bits = np.unpackbits(bitmaps, axis=1, count=block_size // SECTOR)
    return bits.view(np.bool_)


def false_claim(file: BlockFile, headers: Headers, tables: Tables) -> int | None:
    """The first block that the batmap calls full and whose bitmap says otherwise."""
    blocks = np.flatnonzero(tables.full)
    for at in range(0, len(blocks), BATCH):
        batch = blocks[at : at + BATCH]
        stored = read_bitmaps(file, headers, tables.bat[batch])
        less = batch[~sector_bits(stored, headers.header.block_size).all(axis=1)]
        if len(less):
            return int(less[0])
    return None


def _runs(blocks: Int64s, bits: npt.NDArray[np.bool_], block_size: int) -> tuple[Int64s, Int64s]:
    """Guest start and length of each run of set bits; `bits` has a row for each block."""
    edges = np.diff(bits.view(np.int8), axis=1, prepend=np.int8(0), append=np.int8(0))
    row, begin = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1]
    return blocks[row] * block_size + begin * SECTOR, (end - begin) * SECTOR


def _in_order(headers: Headers, tables: Tables, start: Int64s, length: Int64s) -> ExtentMap:
    header = headers.header
    order = np.argsort(start, kind="stable")
    start, length = start[order], length[order]
    length = np.minimum(length, headers.footer.current_size - start)
    inside = length > 0
    start, length = start[inside], length[inside]
    block, within = np.divmod(start, header.block_size)
    offset = tables.bat[block].astype(np.int64) * SECTOR + header.bitmap_size + within
    kind = np.full(len(start), Kind.DATA, dtype=np.uint8)
    return ExtentMap(start, length, kind, offset)
