"""A complete VHD in one pass, to a pipe: no seeking, no temporary file.

All positions follow from which blocks have data, so the whole length is known before the first
byte:

    footer copy | header | room for a link | table | batmap | blocks, guest order | footer

Each block is sent whole, all its sectors marked as held, since several readers ignore the marks;
its data begins on a 4 KiB boundary. The batmap calls all of these blocks full. Unlike an image made
in place there is no hole for larger tables, so a later growth may have to move the first blocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sm.cowutil.extents import Extents, Int64s
from sm.cowutil.stream import Piece, Read
from sm.cowutil.vhd.batmap import checksum_of
from sm.cowutil.vhd.footer import FOOTER_SIZE, MAX_VIRTUAL_SIZE, Footer, Kind, timestamp
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.header import (
    BATMAP_HEADER_SIZE,
    BLOCK_SIZE,
    UNUSED,
    Header,
    pack_batmap_header,
)
from sm.cowutil.vhd.headers import HEADER_OFFSET
from sm.cowutil.vhd.layout import (
    BLOCK_ROOM,
    DATA_ALIGNMENT,
    TABLE_OFFSET,
    batmap_checked_bytes,
    batmap_sectors,
    round_up,
    table_size,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything goes. Sizes and offsets in bytes.

    `source_size`: the disk as it is read. `virtual_size`: the same in whole blocks, as the image
    will have it. `blocks`: numbers of the blocks that are sent, ascending.
    """

    source_size: int
    virtual_size: int
    blocks: Int64s

    @property
    def entries(self) -> int:
        """Blocks of the disk."""
        return self.virtual_size // BLOCK_SIZE

    @property
    def batmap_offset(self) -> int:
        """Where the batmap begins, behind its header."""
        return TABLE_OFFSET + table_size(self.entries) + BATMAP_HEADER_SIZE

    @property
    def metadata_end(self) -> int:
        """The byte behind the batmap."""
        return self.batmap_offset + batmap_sectors(self.entries) * SECTOR

    @property
    def data_offset(self) -> int:
        """Where the data of the first block begins; its bitmap is the sector before."""
        return round_up(self.metadata_end + SECTOR, DATA_ALIGNMENT)

    @property
    def total(self) -> int:
        """The length of the whole image."""
        if len(self.blocks) == 0:
            return self.metadata_end + FOOTER_SIZE
        return self.data_offset + (len(self.blocks) - 1) * BLOCK_ROOM + BLOCK_SIZE + FOOTER_SIZE


def plan(virtual_size: int, data: Extents) -> Plan:
    """Lay out an image of a disk of `virtual_size` bytes that holds `data`.

    Blocks that `data` touches are sent whole. ValueError for sizes that the format cannot hold.
    """
    size = round_up(virtual_size, BLOCK_SIZE)
    if virtual_size % SECTOR or not 0 < size <= MAX_VIRTUAL_SIZE:
        raise ValueError(f"no VHD holds a disk of {virtual_size} bytes")
    blocks = np.flatnonzero(data.clip(0, virtual_size).to_bitmap(BLOCK_SIZE, size))
    return Plan(virtual_size, size, blocks)


def stream(chosen: Plan, read: Read, now: float) -> Iterator[Piece]:
    """The bytes of the image, in pieces; `now` is the Unix time that it bears.

    `read` is called for ascending, whole blocks, cut at the end of the disk.
    """
    size = chosen.virtual_size
    footer = Footer(Kind.DYNAMIC, size, size, HEADER_OFFSET, timestamp(now), os.urandom(16)).pack()
    header = Header(TABLE_OFFSET, chosen.entries).pack()
    yield footer
    yield header.ljust(TABLE_OFFSET - HEADER_OFFSET, b"\0")
    yield _table(chosen)
    yield from _batmap(chosen)
    if len(chosen.blocks):
        yield bytes(chosen.data_offset - SECTOR - chosen.metadata_end)
    yield from _blocks(chosen, read)
    yield footer


def _table(chosen: Plan) -> bytes:
    table = np.full(chosen.entries, UNUSED, dtype=np.uint32)
    places = chosen.data_offset + np.arange(len(chosen.blocks), dtype=np.int64) * BLOCK_ROOM
    table[chosen.blocks] = places // SECTOR - 1
    return table.astype(">u4").tobytes().ljust(table_size(chosen.entries), b"\0")


def _batmap(chosen: Plan) -> Iterator[bytes]:
    covered = batmap_checked_bytes(chosen.virtual_size)
    sectors = batmap_sectors(chosen.entries)
    bits = np.zeros(sectors * SECTOR * 8, dtype=np.bool_)
    bits[chosen.blocks] = True
    bits[covered * 8 :] = False  # bits outside the checksum are never set
    raw = np.packbits(bits).tobytes()
    yield pack_batmap_header(chosen.batmap_offset, sectors, checksum_of(raw[:covered]))
    yield raw


def _blocks(chosen: Plan, read: Read) -> Iterator[bytes | memoryview]:
    bitmap = b"\xff" * SECTOR
    between = bytes(BLOCK_ROOM - BLOCK_SIZE - SECTOR) + bitmap
    buffer = memoryview(bytearray(BLOCK_SIZE))
    for index, block in enumerate(chosen.blocks.tolist()):
        yield between if index else bitmap
        start = block * BLOCK_SIZE
        inside = min(BLOCK_SIZE, chosen.source_size - start)
        read(start, buffer[:inside])
        buffer[inside:] = bytes(BLOCK_SIZE - inside)
        yield buffer
