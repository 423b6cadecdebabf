"""The directory of persistent dirty bitmaps: read and listed, never changed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.header import Header
from sm.cowutil.qcow2.source import Source

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
    directory = source.read(offset, length, "bitmap directory")
    found = []
    position = 0
    for _ in range(count):
        where = offset + position
        if position + ENTRY.size > length:
            raise ImageCorrupt(source.path, "bitmap directory", where, "ends inside an entry")
        table, entries, flags, _, bits, name_length, extra = ENTRY.unpack_from(directory, position)
        end = position + ENTRY.size + extra + name_length
        if end > length or name_length > MAX_NAME or bits > 31 or entries > MAX_TABLE_ENTRIES:
            raise ImageCorrupt(source.path, "bitmap directory entry", where, "exceeds a limit")
        if table % header.cluster_size or table + entries * 8 > source.size:
            problem = f"{table} is not aligned to a cluster inside the file"
            raise ImageCorrupt(source.path, "bitmap table offset", where, problem)
        name = directory[end - name_length : end].decode("utf-8", "replace")
        in_use, recording = bool(flags & FLAG_IN_USE), bool(flags & FLAG_AUTO)
        found.append(Bitmap(name, 1 << bits, in_use, recording, table, entries))
        position += -(-(end - position) // 8) * 8
    return tuple(found), offset, length
