"""The allocation table and what is in its blocks, as numpy arrays."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.vhd.batmap import load_batmap
from sm.cowutil.vhd.block_file import BlockFile
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.header import UNUSED
from sm.cowutil.vhd.headers import Headers, metadata_ranges


@dataclass(slots=True)
class Tables:
    """Where the blocks of one image are. One element for each block of the virtual size.

    `bat`: uint32, sector of the block's bitmap, `UNUSED` where not allocated. `full`: bool, true
    where the batmap may be believed that every sector of the block is held. `metadata_end`: the
    byte behind the last structure; blocks lie behind it. `stale_batmap`: a batmap with valid
    checksum claims blocks that are not allocated, so that it must not outlive an allocation.
    """

    bat: npt.NDArray[np.uint32]
    full: npt.NDArray[np.bool_]
    metadata_end: int
    stale_batmap: bool

    @property
    def allocated(self) -> npt.NDArray[np.int64]:
        """Indices of the allocated blocks, ascending."""
        return np.flatnonzero(self.bat != UNUSED)


def load_tables(file: BlockFile, headers: Headers) -> Tables:
    """Read the table and validate every entry; `ImageCorrupt` where one cannot be right."""
    count = headers.block_count
    bat = np.full(count, UNUSED, dtype=np.uint32)
    file.read_into(headers.header.table_offset, memoryview(bat.view(np.uint8).data))
    if sys.byteorder == "little":
        bat.byteswap(inplace=True)
    metadata_end = max(end for _, end in metadata_ranges(file, headers))
    _check_positions(headers, bat, metadata_end)
    claims = load_batmap(file, headers, count)
    used = bat != UNUSED
    return Tables(bat, claims & used, metadata_end, bool((claims & ~used).any()))


def data_end(headers: Headers, tables: Tables) -> int:
    """The byte behind the last block, or behind the metadata where there is none."""
    used = tables.bat[tables.bat != UNUSED]
    if len(used) == 0:
        return tables.metadata_end
    return max(tables.metadata_end, int(used.max()) * SECTOR + headers.header.stride)


def read_bitmaps(
    file: BlockFile, headers: Headers, positions: npt.NDArray[np.uint32]
) -> npt.NDArray[np.uint8]:
    """The sector bitmaps of the blocks at `positions` (sectors): uint8 of shape (n, bytes)."""
    size = headers.header.bitmap_size
    bitmaps = np.zeros((len(positions), size), dtype=np.uint8)
    rows = memoryview(bitmaps.reshape(-1).data)
    # One read for each block: bitmaps lie a block apart, so no larger read would serve two.
    for index, position in enumerate(positions.tolist()):
        file.read_into(position * SECTOR, rows[index * size : (index + 1) * size])
    return bitmaps


def _check_positions(headers: Headers, bat: npt.NDArray[np.uint32], metadata_end: int) -> None:
    """Refuse blocks in front of `metadata_end`, behind the end of the file, or on each other.

    Works on 32-bit sector numbers, so that the largest table stays below 64 MiB of memory.
    """
    header = headers.header
    places = bat[bat != UNUSED]
    if len(places) == 0:
        return
    places.sort()

    def refuse(place: int, problem: str) -> ImageCorrupt:
        block = int(np.flatnonzero(bat == place)[-1])
        at = header.table_offset + 4 * block
        problem = f"byte {place * SECTOR} {problem}"
        return ImageCorrupt(headers.path, f"table entry {block}", at, problem)

    lowest, highest = int(places[0]), int(places[-1])
    if lowest * SECTOR < metadata_end:
        raise refuse(lowest, f"lies in front of the end of the metadata at {metadata_end}")
    # Only its bitmap: some writers leave the end of the last block a hole behind the file's end.
    if highest * SECTOR + header.bitmap_size > headers.file_size:
        raise refuse(highest, "lies behind the end of the file")
    near = np.flatnonzero(np.diff(places) < header.stride // SECTOR)
    if len(near):
        raise refuse(int(places[near[0] + 1]), "overlaps another block")
