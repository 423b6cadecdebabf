"""A complete QCOW2 image in one pass, to a pipe: no seeking, no temporary file.

All positions follow from which guest clusters have data, so the whole length is known before the
first byte:

    header | refcount table | refcount blocks | L1 | L2 tables that are needed | data, guest order

Every cluster is used once, so each refcount is 1 and each entry has the copied flag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sm.cowutil.extents import Extents, Int64s
from sm.cowutil.qcow2 import layout

Read = Callable[[int, memoryview], None]
"""Fills the buffer with the disk from a byte offset, as `ChainReader.read_into` does."""

PIECE_BYTES = 4 << 20
"""Data and tables handed out at once, at most; one cluster where clusters are larger."""

REFCOUNT_ORDER = 4
REFCOUNT_BYTES = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything goes. Offsets and `total` in bytes; the rest are counts of clusters.

    `data`: the guest bytes sent, in whole clusters. `tables`: numbers of the L1 entries in use.
    """

    virtual_size: int
    cluster_size: int
    data: Extents
    tables: Int64s
    refcount_table: int
    refcount_blocks: int
    l1: int
    clusters: int

    @property
    def l1_offset(self) -> int:
        """Where the L1 table begins."""
        return (1 + self.refcount_table + self.refcount_blocks) * self.cluster_size

    @property
    def l2_offset(self) -> int:
        """Where the first L2 table begins."""
        return self.l1_offset + self.l1 * self.cluster_size

    @property
    def data_offset(self) -> int:
        """Where the first data cluster begins."""
        return self.l2_offset + len(self.tables) * self.cluster_size

    @property
    def total(self) -> int:
        """The length of the whole image."""
        return self.clusters * self.cluster_size


def plan(virtual_size: int, data: Extents, cluster_bits: int = 16) -> Plan:
    """Lay out an image of a disk of `virtual_size` bytes that holds `data`.

    Clusters that `data` touches are sent whole. ValueError for sizes that the format cannot hold.
    """
    size = 1 << cluster_bits
    if virtual_size % 512 or not layout.MIN_CLUSTER_BITS <= cluster_bits <= layout.MAX_CLUSTER_BITS:
        raise ValueError(f"no image has {virtual_size} bytes in clusters of {size}")
    span = size * (size // 8)
    l1_entries = -(-virtual_size // span)
    if l1_entries * 8 > layout.MAX_L1_BYTES:
        raise ValueError(f"{virtual_size} bytes in clusters of {size} need too large an L1 table")
    whole = data.clip(0, virtual_size).align(size)
    spans = whole.align(span)
    tables = np.concatenate(
        [np.zeros(0, dtype=np.int64)]
        + [np.arange(start // span, end // span, dtype=np.int64) for start, end in spans]
    )
    l1 = max(1, -(-l1_entries * 8 // size))
    fixed = 1 + l1 + len(tables) + whole.total // size
    table, blocks = _refcount_clusters(fixed, size)
    return Plan(virtual_size, size, whole, tables, table, blocks, l1, fixed + table + blocks)


def stream(chosen: Plan, read: Read) -> Iterator[bytes | memoryview]:
    """The bytes of the image, in pieces; each is valid until the next is asked for.

    `read` is called for ascending, whole clusters, cut at the end of the disk.
    """
    yield _header(chosen)
    yield from _refcounts(chosen)
    yield _level_one(chosen)
    yield from _level_two(chosen)
    yield from _data(chosen, read)


def _refcount_clusters(fixed: int, size: int) -> tuple[int, int]:
    """Clusters of the refcount table and blocks, which count themselves too."""
    table = blocks = 0
    while True:
        total = fixed + table + blocks
        more = -(-total // (size // REFCOUNT_BYTES))
        more_table = -(-more * 8 // size)
        if (more_table, more) == (table, blocks):
            return table, blocks
        table, blocks = more_table, more


def _header(chosen: Plan) -> bytes:
    fixed = layout.FIXED.pack(
        layout.MAGIC,
        3,
        0,
        0,
        chosen.cluster_size.bit_length() - 1,
        chosen.virtual_size,
        0,
        -(-chosen.virtual_size // (chosen.cluster_size * (chosen.cluster_size // 8))),
        chosen.l1_offset,
        chosen.cluster_size,
        chosen.refcount_table,
        0,
        0,
    )
    more = layout.FIXED_V3.pack(0, 0, 0, REFCOUNT_ORDER, layout.V3_LENGTH)
    return (fixed + more).ljust(chosen.cluster_size, b"\0")


def _refcounts(chosen: Plan) -> Iterator[bytes]:
    first = (1 + chosen.refcount_table) * chosen.cluster_size
    table = first + np.arange(chosen.refcount_blocks, dtype=np.int64) * chosen.cluster_size
    yield table.astype(">u8").tobytes().ljust(chosen.refcount_table * chosen.cluster_size, b"\0")
    left = chosen.clusters
    per_block = chosen.cluster_size // REFCOUNT_BYTES
    for _ in range(chosen.refcount_blocks):
        count = min(left, per_block)
        yield np.ones(count, dtype=">u2").tobytes().ljust(chosen.cluster_size, b"\0")
        left -= count


def _level_one(chosen: Plan) -> bytes:
    entries = np.zeros(chosen.l1 * chosen.cluster_size // 8, dtype=np.uint64)
    offsets = chosen.l2_offset + np.arange(len(chosen.tables)) * chosen.cluster_size
    entries[chosen.tables] = offsets.astype(np.uint64) | np.uint64(layout.FLAG_COPIED)
    return entries.astype(">u8").tobytes()


def _level_two(chosen: Plan) -> Iterator[bytes]:
    size, entries = chosen.cluster_size, chosen.cluster_size // 8
    span = size * entries
    lengths = chosen.data.ends - chosen.data.starts
    places = chosen.data_offset + np.cumsum(lengths) - lengths
    for number in chosen.tables.tolist():
        start = number * span
        first = int(np.searchsorted(chosen.data.ends, start, side="right"))
        last = int(np.searchsorted(chosen.data.starts, start + span, side="left"))
        low = np.maximum(chosen.data.starts[first:last], start)
        high = np.minimum(chosen.data.ends[first:last], start + span)
        counts = (high - low) // size
        # Within a run, guest and file go up together: one difference for each run.
        shift = np.repeat(places[first:last] - chosen.data.starts[first:last], counts)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        guest = np.repeat(low, counts) + (np.arange(len(shift)) - before) * size
        table = np.zeros(entries, dtype=np.uint64)
        table[(guest - start) // size] = (guest + shift).astype(np.uint64) | np.uint64(
            layout.FLAG_COPIED
        )
        yield table.astype(">u8").tobytes()


def _data(chosen: Plan, read: Read) -> Iterator[memoryview]:
    size = chosen.cluster_size
    buffer = memoryview(bytearray(max(size, PIECE_BYTES // size * size)))
    for start, end in chosen.data:
        for position in range(start, end, len(buffer)):
            piece = buffer[: min(len(buffer), end - position)]
            inside = min(len(piece), chosen.virtual_size - position)
            read(position, piece[:inside])
            piece[inside:] = bytes(len(piece) - inside)
            yield piece
