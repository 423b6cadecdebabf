"""Where our own images keep what, and how much room that takes. All in bytes.

    0       copy of the footer
    512     header
    1536    spare header, used while the header is replaced
    2560    two slots for parent locators, so that a new link is written beside the old one
    8192    block allocation table, then batmap header
            a hole where the tables of the largest disk (4 MiB) fit
            batmap
            blocks, data on 4 KiB boundaries
    end     footer

Locators and the hole lie in front of the batmap, where no writer that appends blocks behind the
metadata can reach them. The hole costs no space in a file. Thanks to it growth moves no block, so a
reader that has the image open meanwhile, with its table in memory, keeps reading right.
"""

from __future__ import annotations

from sm.cowutil.vhd.footer import FOOTER_SIZE, MAX_VIRTUAL_SIZE
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.header import BATMAP_HEADER_SIZE, BLOCK_SIZE

LOCATOR_OFFSET = 2560
TABLE_OFFSET = 8192
DATA_ALIGNMENT = 4096
BLOCK_ROOM = BLOCK_SIZE + DATA_ALIGNMENT
"""What one block of an image takes: its bitmap ends on a 4 KiB boundary, where the data begins."""

MAX_ENTRIES = MAX_VIRTUAL_SIZE // BLOCK_SIZE


def round_up(value: int, unit: int) -> int:
    """The least multiple of `unit` that is not below `value`."""
    return -(-value // unit) * unit


def table_size(entries: int) -> int:
    """The allocation table, padded to a sector."""
    return round_up(4 * entries, SECTOR)


def batmap_sectors(entries: int) -> int:
    """Sectors of the batmap: a bit for each block."""
    return -(-entries // (8 * SECTOR))


def tables_size(entries: int) -> int:
    """Allocation table, batmap header and batmap together."""
    return table_size(entries) + BATMAP_HEADER_SIZE + batmap_sectors(entries) * SECTOR


def batmap_offset(entries: int) -> int:
    """Where the batmap of a new image is: behind the hole, so that the hole stays one."""
    return TABLE_OFFSET + table_size(entries) + BATMAP_HEADER_SIZE + tables_size(MAX_ENTRIES)


def metadata_end(entries: int) -> int:
    """The byte behind the metadata of a new image."""
    return batmap_offset(entries) + batmap_sectors(entries) * SECTOR


def full_size(virtual_size: int) -> int:
    """What an image of ours needs when every block is written, whether it has grown or not."""
    entries = -(-virtual_size // BLOCK_SIZE)
    first = round_up(metadata_end(entries) + SECTOR, DATA_ALIGNMENT)
    return first + entries * BLOCK_ROOM + FOOTER_SIZE


def empty_size(virtual_size: int) -> int:
    """What an image of ours needs when no block is written."""
    return metadata_end(-(-virtual_size // BLOCK_SIZE)) + FOOTER_SIZE


def sparse_size(virtual_size: int) -> int:
    """What of that is no hole: all but the room for larger tables."""
    return empty_size(virtual_size) - tables_size(MAX_ENTRIES)


def batmap_checked_bytes(virtual_size: int) -> int:
    """How many bytes of the batmap its checksum covers.

    blktap rounds down before it pads to sectors, so that up to seven blocks at the end of some
    sizes have bits outside; those bits are never set and never believed.
    """
    return max(SECTOR, round_up(virtual_size >> 24, SECTOR))
