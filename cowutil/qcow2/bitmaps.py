"""The directory of persistent dirty bitmaps: read and listed, never changed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.header import Header
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.window import Window

EXTENSION = struct.Struct(">IIQQ")
"""Bitmaps, reserved, bytes and offset of the directory."""

ENTRY = struct.Struct(">QIIBBHI")
"""Table offset and entries, flags, type, granularity bits, lengths of name and extra data; then
extra data and name, padded to a multiple of 8."""

MAX_BITMAPS = 65535
MAX_DIRECTORY_BYTES = 64 << 20
MAX_TABLE_ENTRIES = 0x8000000 // 8
MAX_NAME = 1023
FLAG_IN_USE = 1
FLAG_AUTO = 2


Fields = tuple[int, int, int, int, int, int, int]
"""What `ENTRY` unpacks."""


@dataclass(frozen=True, slots=True)
class Bitmap:
    """One persistent bitmap. `granularity` in bytes of the disk for each bit.

    `in_use`: its writer did not end in order, so that the bits cannot be trusted.
    `recording`: it is updated whenever the disk is written.
    """

    name: str
    granularity: int
    in_use: bool
    recording: bool
    table_offset: int
    table_entries: int


def read_bitmaps(source: Source, header: Header) -> tuple[tuple[Bitmap, ...], int, int]:
    """The bitmaps, and offset and length in bytes of their directory (0 without any).

    An image whose autoclear bit is not set was written by somebody who does not know bitmaps:
    what it lists counts for nothing, as for qemu. Raises `ImageCorrupt` for what is not in the
    file or exceeds qemu's caps.
    """
    extension = header.extension(layout.EXT_BITMAPS)
    if extension is None or not header.autoclear & layout.AUTOCLEAR_BITMAPS:
        return (), 0, 0
    if len(extension.data) != EXTENSION.size:
        raise ImageCorrupt(source.path, "bitmaps extension", extension.offset, "is not 24 bytes")
    count, _, length, offset = EXTENSION.unpack(extension.data)
    if not 0 < count <= MAX_BITMAPS or not 0 < length <= MAX_DIRECTORY_BYTES:
        problem = f"{count} bitmaps in {length} bytes"
        raise ImageCorrupt(source.path, "bitmaps extension", extension.offset, problem)
    if offset % header.cluster_size:
        problem = f"{offset} is not aligned to a cluster"
        raise ImageCorrupt(source.path, "bitmap directory offset", extension.offset + 16, problem)
    source.require(offset, length, "bitmap directory")
    for _ in _entries(source, header, count, offset, length):
        pass  # first, for a refusal at a quarter of the cost
    found = []
    for data, name_at, fields in _entries(source, header, count, offset, length):
        table, entries, flags, _, bits, name_length, _ = fields
        name = data[name_at : name_at + name_length].decode("utf-8", "replace")
        in_use, recording = bool(flags & FLAG_IN_USE), bool(flags & FLAG_AUTO)
        found.append(Bitmap(name, 1 << bits, in_use, recording, table, entries))
    return tuple(found), offset, length


def _entries(
    source: Source, header: Header, count: int, start: int, length: int
) -> Iterator[tuple[bytes, int, Fields]]:
    """Give (bytes, where in these the name begins, fields) of each entry of the directory."""
    position, end = start, start + length
    window = Window(source, "bitmap directory", end)
    for _ in range(count):
        if position + ENTRY.size > end:
            raise ImageCorrupt(source.path, "bitmap directory", position, "ends inside an entry")
        data, index = window.at(position, ENTRY.size)
        fields: Fields = ENTRY.unpack_from(data, index)
        table, entries, _, _, bits, name_length, extra = fields
        size = ENTRY.size + extra + name_length
        beyond = position + size > end
        if beyond or name_length > MAX_NAME or bits > 31 or entries > MAX_TABLE_ENTRIES:
            raise ImageCorrupt(source.path, "bitmap directory entry", position, "exceeds a limit")
        if table % header.cluster_size or table + entries * 8 > source.size:
            problem = f"{table} is not aligned to a cluster inside the file"
            raise ImageCorrupt(source.path, "bitmap table offset", position, problem)
        index += size - name_length
        if index + name_length > len(data):
            data, index = window.at(position + size - name_length, name_length)
        yield data, index, fields
        position += -(-size // 8) * 8
