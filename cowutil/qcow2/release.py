"""Letting go of what an image holds, and giving its space back, without any tool.

Nobody else may have the image open. First the entries of the L2 tables are cleared, durably; then
the clusters that they led to are made holes of the file. The refcounts stay, so that the clusters
are leaked until a repair, and no other write of ours can go wrong with them: the image is about to
be deleted, or is repaired by its next user.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from sm.cowutil.extents import Int64s
from sm.cowutil.holes import punch_hole
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.header import read_header
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.tables import Tables, adjacent

WHOLE_FILE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
"""A struct flock: type, whence, start, length (0 for all), and process."""

BATCH = 256
"""Tables that are changed between two syncs."""


@contextmanager
def alone(paths: Sequence[Path]) -> Iterator[bool]:
    """Keep readers away from images for the block; whether nobody has any of them open.

    Whoever reads through qemu has a lock on each image (of an open file description, fcntl(2)), and
    its tables in memory: what is given back would be zeroes to him.
    """
    with ExitStack() as stack:
        for path in paths:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, WHOLE_FILE)
            except BlockingIOError:
                yield False
                return
        yield True


def release(path: Path, start: int, end: int) -> None:
    """Hold nothing of the whole clusters between two guest bytes any more.

    An image with internal snapshots, which may use the same clusters, or with extended L2 entries
    keeps what it has, and so does a cluster that is compressed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        with Source(path) as source:
            header = read_header(source)
            if header.snapshot_count or header.extended or header.marks:
                return
            tables = Tables(source, header)
            size = header.cluster_size
            first, last = -(-start // size), end // size
            per_table = header.table_entries
            used = np.flatnonzero(tables.offsets)
            used = used[(used >= first // per_table) & (used * per_table < last)]
            for begin in range(0, len(used), BATCH):
                found = [
                    _clear(source, descriptor, int(tables.offsets[index]), *inside)
                    for index in used[begin : begin + BATCH].tolist()
                    for inside in [_inside(index * per_table, per_table, first, last)]
                ]
                os.fdatasync(descriptor)
                places = np.unique(np.concatenate(found))
                for offset, length in adjacent(places, size):
                    punch_hole(descriptor, offset, length)
    finally:
        os.close(descriptor)


def _inside(base: int, count: int, first: int, last: int) -> tuple[int, int]:
    """Which of `count` entries from cluster `base` on are of clusters from `first` to `last`."""
    return max(0, first - base), min(count, last - base)


def _clear(source: Source, descriptor: int, table: int, first: int, last: int) -> Int64s:
    """Clear entries of one table; gives where the clusters are that only they led to."""
    data = bytearray(8 * (last - first))
    source.read_padded(table + 8 * first, memoryview(data))
    words = np.frombuffer(data, dtype=">u8").astype(np.uint64)
    kept = (words & layout.FLAG_COMPRESSED) != 0
    alone = ~kept & ((words & layout.FLAG_COPIED) != 0)
    places = (words[alone] & layout.OFFSET_MASK).astype(np.int64)
    cleared = np.where(kept, words, 0).astype(">u8")
    os.pwrite(descriptor, cleared.tobytes(), table + 8 * first)
    used: Int64s = places[places != 0]
    return used
