"""Make a new image: an empty disk, or an empty child of another image.

A crash leaves a file that is refused as no VHD, or the whole image: the copy of the footer, which
makes it one, is written last, after everything else is durable.
"""

from __future__ import annotations

import os
from pathlib import Path

from sm.cowutil.errors import SizeOutOfRange
from sm.cowutil.vhd.block_file import BlockFile, no_space
from sm.cowutil.vhd.footer import (
    FOOTER_SIZE,
    MAX_VIRTUAL_SIZE,
    NO_OFFSET,
    Footer,
    Kind,
    checksum,
    timestamp,
)
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.header import BLOCK_SIZE, Header, pack_batmap_header
from sm.cowutil.vhd.headers import HEADER_OFFSET
from sm.cowutil.vhd.layout import (
    LOCATOR_OFFSET,
    TABLE_OFFSET,
    batmap_offset,
    batmap_sectors,
    metadata_end,
    round_up,
    table_size,
)
from sm.cowutil.vhd.locator import spell_parent
from sm.cowutil.vhd.parent import ParentIdentity, linked


def disk_size(path: Path, virtual_size: int, minimum: int = BLOCK_SIZE) -> int:
    """`virtual_size` rounded up to whole blocks; `SizeOutOfRange` below `minimum` or too large."""
    size = round_up(virtual_size, BLOCK_SIZE)
    if virtual_size < minimum or size > MAX_VIRTUAL_SIZE:
        raise SizeOutOfRange(path, virtual_size, minimum, MAX_VIRTUAL_SIZE)
    return size


def write_fixed(file: BlockFile, size: int, now: float) -> None:
    """Make `file`, new and regular, a fixed disk of zeroes; durable on return.

    Here and below, `size` comes from `disk_size` and `now` is the Unix time.
    """
    file.write(size, _footer(Kind.FIXED, size, now).pack())
    file.flush()


def write_dynamic(file: BlockFile, size: int, now: float) -> None:
    """Make `file`, new or a volume, an empty dynamic disk; durable on return."""
    header = Header(TABLE_OFFSET, size // BLOCK_SIZE)
    _write(file, _footer(Kind.DYNAMIC, size, now), header)


def write_child(file: BlockFile, size: int, parent: ParentIdentity, now: float) -> None:
    """Make `file`, new or a volume, an empty child of `parent`; durable on return."""
    spelling = spell_parent(file.path, parent.name, LOCATOR_OFFSET)
    header = linked(Header(TABLE_OFFSET, size // BLOCK_SIZE), parent, spelling, now)
    _write(file, _footer(Kind.DIFFERENCING, size, now), header, spelling.contents)


def _footer(kind: Kind, size: int, now: float) -> Footer:
    data_offset = NO_OFFSET if kind is Kind.FIXED else HEADER_OFFSET
    return Footer(kind, size, size, data_offset, timestamp(now), os.urandom(16))


def _write(file: BlockFile, footer: Footer, header: Header, locators: bytes = b"") -> None:
    raw = footer.pack()
    entries = header.table_entries
    end = metadata_end(entries)
    if not file.resizable and file.size() < end + FOOTER_SIZE:
        raise no_space(file)
    place = end if file.resizable else file.size() - FOOTER_SIZE
    if not file.resizable:
        # The footers of what the volume held before must be gone before our tables come.
        file.write(0, bytes(FOOTER_SIZE))
        file.write(place, bytes(FOOTER_SIZE))
        file.flush()
    front = header.pack().ljust(LOCATOR_OFFSET - HEADER_OFFSET, b"\0") + locators
    file.write(HEADER_OFFSET, front.ljust(TABLE_OFFSET - HEADER_OFFSET, b"\0"))
    table = (b"\xff" * (4 * entries)).ljust(table_size(entries), b"\0")
    sectors, offset = batmap_sectors(entries), batmap_offset(entries)
    file.write(TABLE_OFFSET, table + pack_batmap_header(offset, sectors, checksum(b"")))
    file.write(offset, bytes(sectors * SECTOR))
    file.flush()
    file.write(0, raw)
    file.flush()
    file.write(place, raw)
    file.flush()
