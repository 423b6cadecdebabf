"""Mend what follows from the rest of the metadata; nothing about guest data is guessed.

Each step is durable before the next and may be repeated, so a crash leaves the image no worse.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.vhd.batmap import checksum_of, covered_part
from sm.cowutil.vhd.block_file import BlockFile
from sm.cowutil.vhd.change import replace_footers, replace_header
from sm.cowutil.vhd.extents import false_claim
from sm.cowutil.vhd.footer import Kind
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.growth import add_tables, blank_behind, empty_entries, largest_table
from sm.cowutil.vhd.header import NO_PARENT_ID
from sm.cowutil.vhd.headers import batmap_header, has_batmap, load_headers
from sm.cowutil.vhd.layout import batmap_sectors
from sm.cowutil.vhd.parent import without_parent
from sm.cowutil.vhd.writer import ImageWriter


def mend(file: BlockFile) -> None:
    """Footers, a torn header, the batmap, entries and bits behind the virtual size, a null id.

    Tables that contradict themselves are left alone: which block is right cannot be known.
    """
    try:
        headers = load_headers(file)
        if headers.sparse is not None:
            _mend_sparse(ImageWriter(file))
        elif headers.footer.unique_id == NO_PARENT_ID:
            replace_footers(file, headers, replace(headers.footer, unique_id=os.urandom(16)))
    except ImageCorrupt:
        return  # the check that follows a repair says so


def _mend_sparse(writer: ImageWriter) -> None:
    footer = writer.headers.footer
    if footer.unique_id == NO_PARENT_ID:
        writer.headers = replace(writer.headers, footer=replace(footer, unique_id=os.urandom(16)))
        writer.seal()
    bare = without_parent(writer.headers.header)
    if footer.kind is not Kind.DIFFERENCING and bare != writer.headers.header:
        replace_header(writer.file, writer.headers, bare)
        writer.reload()
    empty_entries(writer, writer.headers.header.table_entries)
    blank_behind(writer, footer.current_size)
    if footer.kind is Kind.DYNAMIC:
        _blank_unheld(writer)
    if has_batmap(footer):
        _mend_batmap(writer)


def _blank_unheld(writer: ImageWriter) -> None:
    """Zero what lies in sectors that are not held, left by writes that were never completed.

    Without a parent these sectors read as zero, but not for qemu, which ignores the bits.
    """
    size = writer.headers.header.block_size
    data = np.zeros(size, dtype=np.uint8)
    for block in writer.tables.allocated.tolist():
        held = writer.present(block)
        if held.all():
            continue
        writer.read_into(block, 0, memoryview(data.data))
        sectors = data.reshape(-1, SECTOR)
        dirty = sectors.any(axis=1) & ~held
        if dirty.any():
            sectors[dirty] = 0
            writer.file.write(writer.offset_of(block), memoryview(data.data))
            writer.file.flush()


def _mend_batmap(writer: ImageWriter) -> None:
    file, headers = writer.file, writer.headers
    entries = headers.header.table_entries
    batmap = batmap_header(file, headers)
    if batmap is None or batmap.sectors < batmap_sectors(entries):
        # The largest, so that it fills the room in front of the blocks.
        add_tables(writer, largest_table(headers.header))
        return
    fits = checksum_of(covered_part(file, headers, batmap)) == batmap.checksum
    if not fits or false_claim(file, headers, writer.tables) is not None:
        writer.clear_batmap()
