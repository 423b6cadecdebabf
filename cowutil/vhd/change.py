"""Changes of the fixed structures, each made so by one write. No tables are read here."""

from __future__ import annotations

import sys
from array import array
from dataclasses import replace

from sm.cowutil.vhd.block_file import BlockFile, read
from sm.cowutil.vhd.footer import FOOTER_SIZE, Footer, Kind
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.header import HEADER_SIZE, UNUSED, Header
from sm.cowutil.vhd.headers import HEADER_OFFSET, SPARE_OFFSET, Headers, metadata_ranges

Range = tuple[int, int]


def replace_header(file: BlockFile, headers: Headers, header: Header) -> None:
    """Put `header` in the place of the present one, durably.

    A crash leaves the old or the new one. It may tear the two sectors of the header; therefore the
    new one goes to a spare place first, which readers try next. An image by another program may
    have no room for that; its torn header would be found by its checksum.
    """
    raw = header.pack()
    if headers.from_spare:
        file.write(headers.footer.data_offset, headers.header.pack())
        file.flush()
    spare = has_spare(headers, metadata_ranges(file, headers))
    if spare:
        file.write(SPARE_OFFSET, raw)
    file.flush()
    file.write(headers.footer.data_offset, raw)
    file.flush()
    if spare:
        file.write(SPARE_OFFSET, bytes(HEADER_SIZE))


def has_spare(headers: Headers, ranges: list[Range]) -> bool:
    """Whether nothing else lies at the place of the spare header."""
    free = all(end <= SPARE_OFFSET or start >= SPARE_OFFSET + HEADER_SIZE for start, end in ranges)
    inside = max(end for _, end in ranges) >= SPARE_OFFSET + HEADER_SIZE
    return free and inside and headers.footer.data_offset == HEADER_OFFSET


def free_room(headers: Headers, ranges: list[Range], limit: int, size: int) -> int | None:
    """Where `size` bytes are free between the structures in `ranges` and before byte `limit`.

    `limit`: where the first block begins, or what else ends the free space. Whole sectors.
    """
    spare = (SPARE_OFFSET, SPARE_OFFSET + HEADER_SIZE)
    if has_spare(headers, ranges):
        ranges = sorted([*ranges, spare])
    free = 0
    for start, end in [*ranges, (limit, limit)]:
        if free + size <= min(start, limit):
            return free
        free = max(free, -(-end // SECTOR) * SECTOR)
    return None


def replace_footers(file: BlockFile, headers: Headers, footer: Footer) -> None:
    """Write both footers of an image whose end footer is in its place, durably.

    First the copy at byte 0, which counts; a crash between leaves the end footer out of date. A
    fixed disk has only the one at the end.
    """
    raw = footer.pack()
    if footer.kind is not Kind.FIXED:
        file.write(0, raw)
        file.flush()
    file.write(headers.file_size - FOOTER_SIZE, raw)
    file.flush()


def hide(file: BlockFile, headers: Headers, hidden: bool) -> bool:
    """Set the hidden mark by the headers alone; False when the end footer must be placed first."""
    if headers.end_footer is None or headers.file_size % SECTOR or _ends_in_block(file, headers):
        return False
    replace_footers(file, headers, replace(headers.footer, hidden=hidden))
    return True


def _ends_in_block(file: BlockFile, headers: Headers) -> bool:
    """Whether the end of the file belongs to a block: a guest's data may look like a footer."""
    if headers.sparse is None:
        return False
    entries = array("I", read(file, headers.sparse.table_offset, 4 * headers.block_count))
    if sys.byteorder == "little":
        entries.byteswap()
    # Without numpy, whose import would take longer than this on a table of any size.
    highest = max(filter(UNUSED.__ne__, entries), default=0)
    end = highest * SECTOR + headers.sparse.stride if highest else 0
    return end > headers.file_size - FOOTER_SIZE
