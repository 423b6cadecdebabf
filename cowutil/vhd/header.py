"""The 1024-byte header of a sparse image, and the header of blktap's batmap.

Specification, "Dynamic Disk Header Format"; the batmap is blktap's extension.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sm.cowutil.errors import ImageCorrupt, ImageUnsupported
from sm.cowutil.vhd.footer import FOOTER_SIZE, FORMAT_VERSION, NO_OFFSET, checksum
from sm.cowutil.vhd.geometry import SECTOR

HEADER_SIZE = 1024
COOKIE = b"cxsparse"
BLOCK_SIZE = 2 << 20
MIN_BLOCK_SIZE = 4096
LOCATOR_COUNT = 8
UNUSED_CODE = bytes(4)
NO_PARENT_ID = bytes(16)
UNUSED = 0xFFFFFFFF
"""An entry of the allocation table for a block that has no place in the file."""

BATMAP_COOKIE = b"tdbatmap"
BATMAP_VERSION = 0x00010002
BATMAP_HEADER_SIZE = 512

_LAYOUT = struct.Struct(">8sQQIIII16sII512s")
_LOCATOR = struct.Struct(">4sIIIQ")
_LOCATORS_OFFSET = 576
_CHECKSUM_OFFSET = 36
_BATMAP = struct.Struct(">8sQIII")

_Refusal = Callable[[str, int, str], ImageCorrupt]


@dataclass(frozen=True, slots=True)
class Locator:
    """Where the image keeps one spelling of its parent's path. Lengths and offset in bytes."""

    code: bytes
    space: int
    length: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a sparse header. Offsets and sizes in bytes.

    `table_entries`: length of the block allocation table. `parent_name`: 512 bytes of UTF-16,
    big endian. `locators`: all eight, None where unused. `position`: where it was read from.
    """

    table_offset: int
    table_entries: int
    block_size: int = BLOCK_SIZE
    parent_id: bytes = NO_PARENT_ID
    parent_timestamp: int = 0
    parent_name: bytes = bytes(512)
    locators: tuple[Locator | None, ...] = (None,) * LOCATOR_COUNT
    position: int = FOOTER_SIZE

    @property
    def bitmap_size(self) -> int:
        """Bytes of the sector bitmap in front of each block's data: whole sectors."""
        return -(-self.block_size // SECTOR // 8 // SECTOR) * SECTOR

    @property
    def stride(self) -> int:
        """Bytes that one allocated block takes in the file: bitmap and data."""
        return self.bitmap_size + self.block_size

    @property
    def table_end(self) -> int:
        """Where the allocation table ends, padded to a sector."""
        return self.table_offset + -(-self.table_entries * 4 // SECTOR) * SECTOR

    def locator_position(self, index: int) -> int:
        """The byte of the image where the fields of this locator are."""
        return self.position + _LOCATORS_OFFSET + index * _LOCATOR.size

    def pack(self) -> bytes:
        """The 1024 bytes as they go to disk, with checksum."""
        raw = bytearray(HEADER_SIZE)
        _LAYOUT.pack_into(
            raw,
            0,
            COOKIE,
            NO_OFFSET,
            self.table_offset,
            FORMAT_VERSION,
            self.table_entries,
            self.block_size,
            0,
            self.parent_id,
            self.parent_timestamp,
            0,
            self.parent_name,
        )
        for index, locator in enumerate(self.locators):
            if locator is not None:
                at = _LOCATORS_OFFSET + index * _LOCATOR.size
                fields = (locator.code, locator.space, locator.length, 0, locator.offset)
                _LOCATOR.pack_into(raw, at, *fields)
        struct.pack_into(">I", raw, _CHECKSUM_OFFSET, checksum(raw))
        return bytes(raw)


def unpack_header(path: Path, raw: bytes, offset: int) -> Header:
    """The sparse header in `raw`, which was read at byte `offset`; `ImageCorrupt` where wrong."""

    def refuse(field: str, at: int, problem: str) -> ImageCorrupt:
        return ImageCorrupt(path, f"header {field}", offset + at, problem)

    if len(raw) < HEADER_SIZE:
        raise refuse("position", 0, "the file ends inside it")
    (
        cookie,
        _,
        table_offset,
        version,
        entries,
        block_size,
        stored,
        parent_id,
        timestamp,
        _,
        name,
    ) = _LAYOUT.unpack_from(raw)
    if cookie != COOKIE:
        raise refuse("cookie", 0, f"{cookie!r} is not {COOKIE!r}")
    if checksum(raw, stored) != stored:
        raise refuse("checksum", _CHECKSUM_OFFSET, "does not fit the contents")
    if version != FORMAT_VERSION:
        raise refuse("version", 24, f"{version:#x} is unknown")
    if block_size == 0 or block_size & (block_size - 1):
        raise refuse("block size", 32, f"{block_size} is not a power of two")
    if not MIN_BLOCK_SIZE <= block_size <= BLOCK_SIZE:
        raise ImageUnsupported(path, f"blocks of {block_size} bytes", "convert the image")
    if table_offset % SECTOR or table_offset < SECTOR:
        raise refuse("table offset", 16, f"{table_offset} is not a sector behind the first")
    locators = tuple(_unpack_locator(raw, index, refuse) for index in range(LOCATOR_COUNT))
    return Header(table_offset, entries, block_size, parent_id, timestamp, name, locators, offset)


def _unpack_locator(raw: bytes, index: int, refuse: _Refusal) -> Locator | None:
    at = _LOCATORS_OFFSET + index * _LOCATOR.size
    if raw[at : at + 4] == UNUSED_CODE:
        return None
    code, space, length, _, offset = _LOCATOR.unpack_from(raw, at)
    if space < SECTOR:
        space *= SECTOR  # as the specification says; most writers count bytes
    elif space % SECTOR:
        raise refuse(f"locator {index} space", at + 4, f"{space} is no count of whole sectors")
    if length > space:
        raise refuse(f"locator {index} length", at + 8, f"{length} exceeds its space of {space}")
    return Locator(code, space, length, offset)


@dataclass(frozen=True, slots=True)
class BatmapHeader:
    """Where the batmap is: `offset` in bytes, `sectors` long; `raw` is the header as stored."""

    offset: int
    sectors: int
    version: int
    checksum: int
    raw: bytes

    @property
    def end(self) -> int:
        """The byte behind the map."""
        return self.offset + self.sectors * SECTOR


def pack_batmap_header(offset: int, sectors: int, stored: int, old: bytes = bytes(512)) -> bytes:
    """A batmap header; marker and key hash are taken over from `old`, a header as stored."""
    raw = bytearray(old)
    _BATMAP.pack_into(raw, 0, BATMAP_COOKIE, offset, sectors, BATMAP_VERSION, stored)
    return bytes(raw)


def unpack_batmap_header(raw: bytes) -> BatmapHeader | None:
    """The batmap header in `raw`, or None when there is none: the batmap is only a hint."""
    if len(raw) < BATMAP_HEADER_SIZE or raw[:8] != BATMAP_COOKIE:
        return None
    _, offset, sectors, version, stored = _BATMAP.unpack_from(raw)
    return BatmapHeader(offset, sectors, version, stored, raw)
