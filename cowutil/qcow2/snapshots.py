"""The table of internal snapshots: read and listed, never changed.

We make none, but imported images have them, and their clusters are in use.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sm.cowutil.errors import ImageCorrupt, ImageError
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.header import Header
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.window import Window

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


Fields = tuple[int, int, int, int, int, int, int, int, int]
"""What `ENTRY` unpacks."""


def read_snapshots(source: Source, header: Header) -> tuple[tuple[Snapshot, ...], int]:
    """The internal snapshots, and how many bytes their table has.

    Raises `ImageCorrupt` for a table that is not within the file or exceeds qemu's caps.
    """
    _, length = snapshot_tables(source, header)  # first, for a refusal at a quarter of the cost
    found = []
    for _, data, index, fields in _entries(source, header):
        l1_offset, l1_entries, id_length, name_length, seconds, _, _, state, extra_length = fields
        size = header.size
        if extra_length >= EXTRA.size:
            state, size = EXTRA.unpack_from(data, index + ENTRY.size)
        id_at = index + ENTRY.size + extra_length
        identifier = _text(data, id_at, min(id_length, MAX_IDENTIFIER))
        name = _text(data, id_at + id_length, min(name_length, MAX_NAME))
        found.append(Snapshot(identifier, name, seconds, size, state, l1_offset, l1_entries))
    return tuple(found), length


def snapshot_tables(source: Source, header: Header) -> tuple[Counter[tuple[int, int]], int]:
    """How many snapshots have each L1 table (offset, entries), and the bytes of their own table.

    Errors as for `read_snapshots`.
    """
    found = Counter[tuple[int, int]]()
    end = header.snapshot_offset
    for end, _, _, fields in _entries(source, header):  # noqa: B007 - the last one counts
        found[fields[:2]] += 1
    return found, end - header.snapshot_offset


def _entries(source: Source, header: Header) -> Iterator[tuple[int, bytes, int, Fields]]:
    """Give (end in the file, bytes, where in these it begins, fields) of each entry."""
    start = position = header.snapshot_offset
    window = Window(source, "snapshot table", start + layout.MAX_SNAPSHOT_BYTES)
    for _ in range(header.snapshot_count):
        data, index = window.at(position, ENTRY.size)
        fields: Fields = ENTRY.unpack_from(data, index)
        l1_offset, l1_entries, id_length, name_length, _, _, _, _, extra_length = fields
        if extra_length > MAX_EXTRA:
            problem = f"{extra_length} bytes of extra data exceed {MAX_EXTRA}"
            raise ImageCorrupt(source.path, "snapshot extra data", position + 36, problem)
        if l1_entries * 8 > layout.MAX_L1_BYTES:
            problem = f"{l1_entries} entries exceed 32 MiB"
            raise ImageCorrupt(source.path, "snapshot L1 size", position + 8, problem)
        if l1_offset % header.cluster_size or l1_offset + l1_entries * 8 > source.size:
            problem = f"{l1_offset} is not aligned to a cluster inside the file"
            raise ImageCorrupt(source.path, "snapshot L1 offset", position, problem)
        length = ENTRY.size + extra_length + id_length + name_length
        if index + length > len(data):
            data, index = window.at(position, length)
        position += -(-length // 8) * 8
        if position - start > layout.MAX_SNAPSHOT_BYTES:
            raise ImageCorrupt(source.path, "snapshot table", start, "exceeds 64 MiB")
        yield position, data, index, fields


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


def _text(data: bytes, start: int, length: int) -> str:
    return data[start : start + length].decode("utf-8", "replace")
