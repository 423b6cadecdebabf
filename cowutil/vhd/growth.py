"""Make a disk larger, and make room for larger tables.

The table of a new image fits its size, as other programs expect. The first growth beyond it adds a
table for the largest disk (4 MiB), so that no later growth needs another. Our own images have a
hole for it. In an image by another program the blocks in its way move to the end of the file first,
because a checker takes a block in front of any metadata for corrupt; nobody else may have such an
image open then, not even for reading.

States that a crash may leave, each with the guest's data whole and the old size, until the last:
blocks moved and their old places unused; the new tables written but not named by the header; the
header switched; the copy of the footer with the new size (now the disk is larger) and the end
footer still old.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sm.cowutil.errors import SizeOutOfRange
from sm.cowutil.vhd.batmap import checksum_of
from sm.cowutil.vhd.block_file import BlockFile, read
from sm.cowutil.vhd.change import free_room, replace_header
from sm.cowutil.vhd.footer import MAX_VIRTUAL_SIZE
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.header import UNUSED, Header, pack_batmap_header
from sm.cowutil.vhd.headers import (
    MAX_BLOCKS,
    Headers,
    batmap_header,
    has_batmap,
    metadata_ranges,
)
from sm.cowutil.vhd.layout import batmap_sectors, round_up, table_size, tables_size
from sm.cowutil.vhd.tables import Tables
from sm.cowutil.vhd.writer import ImageWriter

GRANULARITY = 2 << 20


def grow(writer: ImageWriter, virtual_size: int) -> None:
    """Grow the disk to `virtual_size` bytes, rounded up to 2 MiB; nothing when it has that size."""
    header, old = writer.headers.header, writer.headers.footer.current_size
    size = round_up(virtual_size, GRANULARITY)
    blocks = -(-size // header.block_size)
    most = largest_table(header) * header.block_size
    if virtual_size < old or size > most:
        raise SizeOutOfRange(writer.file.path, virtual_size, old, most)
    if virtual_size == old:
        return
    blank_behind(writer, old)
    if blocks > header.table_entries:
        add_tables(writer, largest_table(header))
    empty_entries(writer, blocks)
    writer.set_footer(current_size=size)
    writer.reload()


def largest_table(header: Header) -> int:
    """How many entries the table of the largest disk has."""
    return min(MAX_VIRTUAL_SIZE // header.block_size, MAX_BLOCKS)


def grows_in_place(file: BlockFile, headers: Headers, tables: Tables, virtual_size: int) -> bool:
    """Whether `grow` to `virtual_size` bytes leaves all blocks where they are."""
    blocks = -(-round_up(virtual_size, GRANULARITY) // headers.header.block_size)
    if blocks <= headers.header.table_entries:
        return True
    size = _tables_room(headers, largest_table(headers.header))
    return free_place(file, headers, tables, size) is not None


def free_place(file: BlockFile, headers: Headers, tables: Tables, size: int) -> int | None:
    """The byte where `size` bytes are free in front of all blocks, where there are so many."""
    ranges = metadata_ranges(file, headers)
    used = tables.bat[tables.bat != UNUSED]
    start = round_up(tables.metadata_end, SECTOR)
    lowest = int(used.min()) * SECTOR if len(used) else start + size
    return free_room(headers, ranges, lowest, size)


def make_room(writer: ImageWriter, size: int) -> int:
    """The byte where `size` bytes are free in front of all blocks; blocks in the way move."""
    found = free_place(writer.file, writer.headers, writer.tables, size)
    if found is None:
        found = round_up(writer.tables.metadata_end, SECTOR)
    writer.reserve(found + size)
    positions = writer.tables.bat[writer.tables.allocated].astype(np.int64) * SECTOR
    writer.relocate(writer.tables.allocated[positions < found + size])
    return found


def _tables_room(headers: Headers, entries: int) -> int:
    """What a table of `entries`, and a batmap where there is one, takes; bytes."""
    return tables_size(entries) if has_batmap(headers.footer) else table_size(entries)


def blank_behind(writer: ImageWriter, size: int) -> None:
    """Drop sectors behind the end of the disk, which others may have left, before they show."""
    block, within = divmod(size, writer.headers.header.block_size)
    if within and writer.is_allocated(block):
        writer.forget(block, slice(within // SECTOR, None))
        writer.commit()


def empty_entries(writer: ImageWriter, blocks: int) -> None:
    """Entries behind the old size must be unused before the size takes them in."""
    count = writer.headers.block_count
    at = writer.headers.header.table_offset + 4 * count
    unused = b"\xff" * (4 * (blocks - count))
    if read(writer.file, at, len(unused)) != unused:
        writer.file.write(at, unused)
        writer.file.flush()


def add_tables(writer: ImageWriter, entries: int) -> None:
    """Give the image a table of `entries` and a batmap in a new place, with the same contents."""
    file, headers = writer.file, writer.headers
    with_batmap = has_batmap(headers.footer)
    at = make_room(writer, _tables_room(headers, entries))
    table = np.full(table_size(entries) // 4, UNUSED, dtype=">u4")
    table[: len(writer.tables.bat)] = writer.tables.bat
    file.write(at, table.tobytes())
    if with_batmap:
        old = batmap_header(file, headers)
        sectors = batmap_sectors(entries)
        full = np.packbits(writer.tables.full).tobytes().ljust(sectors * SECTOR, b"\0")
        place = at + table_size(entries) + SECTOR
        raw = bytes(SECTOR) if old is None else old.raw
        file.write(place - SECTOR, pack_batmap_header(place, sectors, checksum_of(full), raw))
        file.write(place, full)
    header = replace(headers.header, table_offset=at, table_entries=entries)
    replace_header(file, headers, header)
    writer.reload()
