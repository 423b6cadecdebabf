"""Large images at once: real metadata, data clusters that are holes in the file.

Written from the format's description with numpy, and not with the code under test.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

COPIED = np.uint64(1 << 63)


def synthesize(
    path: Path,
    virtual_size: int,
    guest: npt.NDArray[np.int64],
    *,
    cluster_bits: int = 16,
    shuffle: int | None = None,
) -> None:
    """Make an image that holds the guest clusters with the (ascending) numbers `guest`.

    Data lies in guest order, or in a random order from the seed `shuffle`. Refcounts of 16 bits.
    """
    size = 1 << cluster_bits
    entries = size // 8
    l1_entries = -(-virtual_size // (size * entries))
    tables = np.unique(guest // entries)
    l1_clusters = max(1, -(-l1_entries * 8 // size))
    fixed = 1 + l1_clusters + len(tables) + len(guest)
    blocks = table = 0
    while True:
        total = fixed + blocks + table
        more = -(-total // (size // 2))
        if (more, -(-more * 8 // size)) == (blocks, table):
            break
        blocks, table = more, -(-more * 8 // size)
    l1_at = (1 + table + blocks) * size
    l2_at = l1_at + l1_clusters * size
    data_at = l2_at + len(tables) * size

    order = np.arange(len(guest), dtype=np.int64)
    if shuffle is not None:
        np.random.default_rng(shuffle).shuffle(order)
    fields = (b"QFI\xfb", 3, 0, 0, cluster_bits, virtual_size, 0, l1_entries, l1_at, size, table)
    header = struct.pack(">4sIQIIQIIQQIIQ", *fields, 0, 0) + struct.pack(">QQQII", 0, 0, 0, 4, 104)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.ftruncate(descriptor, total * size)
        os.pwrite(descriptor, header, 0)
        numbers = np.arange(blocks, dtype=np.uint64) + np.uint64(1 + table)
        os.pwrite(descriptor, (numbers * np.uint64(size)).astype(">u8").tobytes(), size)
        for first in range(0, total, 1 << 24):
            counts = np.ones(min(1 << 24, total - first), dtype=">u2").tobytes()
            os.pwrite(descriptor, counts, (1 + table) * size + first * 2)
        l1 = np.zeros(l1_entries, dtype=np.uint64)
        places = np.arange(len(tables), dtype=np.uint64) * np.uint64(size) + np.uint64(l2_at)
        l1[tables] = places | COPIED
        os.pwrite(descriptor, l1.astype(">u8").tobytes(), l1_at)
        edges = np.searchsorted(guest, np.append(tables, tables[-1:] + 1) * entries)
        for index, number in enumerate(tables.tolist()):
            l2 = np.zeros(entries, dtype=np.uint64)
            end = int(np.searchsorted(guest, (number + 1) * entries))
            mine = slice(int(edges[index]), end)
            offsets = (data_at + order[mine] * size).astype(np.uint64)
            l2[guest[mine] - number * entries] = offsets | COPIED
            os.pwrite(descriptor, l2.astype(">u8").tobytes(), l2_at + index * size)
    finally:
        os.close(descriptor)
