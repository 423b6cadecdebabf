"""The table of internal snapshots: read and listed, never changed.

We make none, but imported images have them, and their clusters are in use.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from sm.cowutil.errors import ImageCorrupt, ImageError
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.header import Header
from sm.cowutil.qcow2.source import Source

ENTRY = struct.Struct(">QIHHIIQII")
"""L1 offset and entries, lengths of ID and name, date (seconds, nanoseconds), VM clock, VM state
bytes, length of the extra data; then extra data, ID and name, padded to a multiple of 8."""

EXTRA = struct.Struct(">QQ")
"""The extra data that version 3 demands: VM state bytes and virtual size."""

MAX_EXTRA = 1024
MAX_IDENTIFIER = 127
MAX_NAME = 255
"""Bytes of these that are shown, as by qemu; a table full of longer ones would fill the memory."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One internal snapshot. Sizes and offsets in bytes; `seconds` since 1970."""

    identifier: str
    name: str
    seconds: int
    virtual_size: int
    vm_state_size: int
    l1_offset: int
    l1_entries: int


def read_snapshots(source: Source, header: Header) -> tuple[tuple[Snapshot, ...], int]:
    """The internal snapshots, and how many bytes their table has.

    Raises `ImageCorrupt` for a table that is not within the file or exceeds qemu's caps.
    """
    found = []
    start = position = header.snapshot_offset
    for _ in range(header.snapshot_count):
        fixed = source.read(position, ENTRY.size, "snapshot table")
        l1_offset, l1_entries, id_length, name_length, seconds, _, _, state, extra_length = (
            ENTRY.unpack(fixed)
        )
        if extra_length > MAX_EXTRA:
            problem = f"{extra_length} bytes of extra data exceed {MAX_EXTRA}"
            raise ImageCorrupt(source.path, "snapshot extra data", position + 36, problem)
        if l1_entries * 8 > layout.MAX_L1_BYTES:
            problem = f"{l1_entries} entries exceed 32 MiB"
            raise ImageCorrupt(source.path, "snapshot L1 size", position + 8, problem)
        if l1_offset % header.cluster_size or l1_offset + l1_entries * 8 > source.size:
            problem = f"{l1_offset} is not aligned to a cluster inside the file"
            raise ImageCorrupt(source.path, "snapshot L1 offset", position, problem)
        position += ENTRY.size
        rest = source.read(position, extra_length + id_length + name_length, "snapshot table")
        size = header.size
        if extra_length >= EXTRA.size:
            state, size = EXTRA.unpack_from(rest)
        name_at = extra_length + id_length
        identifier = _text(rest[extra_length:name_at], MAX_IDENTIFIER)
        name = _text(rest[name_at:], MAX_NAME)
        found.append(Snapshot(identifier, name, seconds, size, state, l1_offset, l1_entries))
        position += -(-len(rest) // 8) * 8
        if position - start > layout.MAX_SNAPSHOT_BYTES:
            raise ImageCorrupt(source.path, "snapshot table", start, "exceeds 64 MiB")
    return tuple(found), position - start


def as_of(source: Source, header: Header, wanted: str) -> Header:
    """The header as if the snapshot `wanted`, by ID or else by name, were the active disk.

    Raises `ImageError` when there is none.
    """
    snapshots, _ = read_snapshots(source, header)
    for attribute in ("identifier", "name"):
        for each in snapshots:
            if getattr(each, attribute) == wanted:
                return _active(source, header, each)
    raise ImageError(source.path, f"has no internal snapshot {wanted!r}")


def _active(source: Source, header: Header, snapshot: Snapshot) -> Header:
    size = snapshot.virtual_size // 512 * 512
    active = replace(
        header, size=size, l1_offset=snapshot.l1_offset, l1_entries=snapshot.l1_entries
    )
    if active.l1_needed > snapshot.l1_entries:
        problem = f"{snapshot.l1_entries} entries do not cover {size} bytes"
        raise ImageCorrupt(source.path, "snapshot L1 size", header.snapshot_offset, problem)
    return active


def _text(raw: bytes, limit: int) -> str:
    return raw[:limit].decode("utf-8", "replace")
