"""A QCOW2 image in parts, each at the place and with the value of a test's choice.

Written from the format's description (docs/interop/qcow2.txt of QEMU), not with the code under
test. The image that `Parts()` gives is sound: qemu-img finds nothing to complain about.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any, Self

CLUSTER = 4096
COPIED = 1 << 63
COMPRESSED = 1 << 62
MIB = 1 << 20

REFCOUNT_TABLE = 1 * CLUSTER
REFCOUNT_BLOCK = 2 * CLUSTER
L1 = 3 * CLUSTER
L2 = 4 * CLUSTER
DATA = 5 * CLUSTER
SPARE = 8 * CLUSTER
"""A cluster for a snapshot table or a bitmap directory, in use where there is one."""

FIELDS: dict[str, tuple[int, int]] = {
    "magic": (0, 4),
    "version": (4, 4),
    "backing_offset": (8, 8),
    "backing_length": (16, 4),
    "cluster_bits": (20, 4),
    "size": (24, 8),
    "crypt": (32, 4),
    "l1_entries": (36, 4),
    "l1_offset": (40, 8),
    "refcount_offset": (48, 8),
    "refcount_clusters": (56, 4),
    "snapshot_count": (60, 4),
    "snapshot_offset": (64, 8),
    "incompatible": (72, 8),
    "compatible": (80, 8),
    "autoclear": (88, 8),
    "refcount_order": (96, 4),
    "header_length": (100, 4),
}
"""Where each field of the header is, and how many bytes it has."""

SOUND: dict[str, int] = {
    "magic": 0x514649FB,
    "version": 3,
    "cluster_bits": 12,
    "size": MIB,
    "l1_entries": 1,
    "l1_offset": L1,
    "refcount_offset": REFCOUNT_TABLE,
    "refcount_clusters": 1,
    "refcount_order": 4,
    "header_length": 104,
}


def extension(kind: int, data: bytes, length: int | None = None) -> bytes:
    """One header extension, padded; `length` replaces the true one."""
    given = len(data) if length is None else length
    return struct.pack(">II", kind, given) + data + bytes(-len(data) % 8)


def deflated(data: bytes) -> bytes:
    """A compressed cluster as qemu writes it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()


@dataclass(frozen=True)
class Parts:
    """The parts; `fields` are changes to the header, `table` is the L2 table by entry.

    Guest clusters 0 and 1 hold data, cluster 2 is zero, cluster 3 compressed. `pieces` are laid
    over everything else, `refcounts` (by cluster) over those that are right.
    """

    fields: dict[str, int] = field(default_factory=dict)
    extensions: bytes = b""
    backing: bytes | None = None
    table: dict[int, int] = field(default_factory=dict)
    refcounts: dict[int, int] = field(default_factory=dict)
    pieces: dict[int, bytes] = field(default_factory=dict)
    stream: bytes = deflated(b"deflate " * 512)
    clusters: int = 8

    def but(self, **changes: Any) -> Self:
        """The same with some parts changed."""
        return replace(self, **changes)

    @property
    def length(self) -> int:
        """Bytes of the whole file."""
        return self.clusters * CLUSTER

    def header(self) -> bytes:
        """The header cluster."""
        values = dict(SOUND)
        behind = self.extensions + bytes(8)
        if self.backing is not None:
            values["backing_offset"] = 104 + len(behind)
            values["backing_length"] = len(self.backing)
        values.update(self.fields)
        raw = bytearray(104)
        for name, value in values.items():
            place, width = FIELDS[name]
            raw[place : place + width] = value.to_bytes(width, "big")
        return bytes(raw) + behind + (self.backing or b"")

    def layout(self) -> dict[int, bytes]:
        """All pieces by their offset."""
        sectors = (DATA + 2 * CLUSTER) % 512 + len(self.stream) + 511 >> 9
        table = {
            0: DATA | COPIED,
            1: DATA + CLUSTER | COPIED,
            2: 1,
            3: COMPRESSED | (sectors - 1) << 58 | DATA + 2 * CLUSTER,
        } | self.table
        l2 = [table.get(index, 0) for index in range(CLUSTER // 8)]
        counts = [self.refcounts.get(index, 1) for index in range(self.clusters)]
        found = {
            0: self.header(),
            REFCOUNT_TABLE: struct.pack(">Q", REFCOUNT_BLOCK),
            REFCOUNT_BLOCK: struct.pack(f">{len(counts)}H", *counts),
            L1: struct.pack(">Q", L2 | COPIED),
            L2: struct.pack(f">{len(l2)}Q", *l2),
            DATA: b"\x11" * CLUSTER,
            DATA + CLUSTER: b"\x22" * CLUSTER,
            DATA + 2 * CLUSTER: self.stream,
        }
        return _laid_over(found, self.pieces)


def _laid_over(below: dict[int, bytes], above: dict[int, bytes]) -> dict[int, bytes]:
    """`above` written after `below`, whatever their offsets."""
    return {**{at: piece for at, piece in below.items() if at not in above}, **above}


SOUND_PARTS = Parts()
