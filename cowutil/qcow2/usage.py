"""How an image uses its file: space, end, order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sm.cowutil.extents import Kind
from sm.cowutil.qcow2.bitmaps import Bitmap, read_bitmaps
from sm.cowutil.qcow2.header import read_header
from sm.cowutil.qcow2.refcounts import Refcounts
from sm.cowutil.qcow2.snapshots import Snapshot, read_snapshots
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.tables import Tables


@dataclass(frozen=True, slots=True)
class Usage:
    """Space of one image, from its refcounts alone.

    `physical`: bytes in clusters that are in use, metadata and leaks included. `used_size`: end
    of the last one, where a volume may be cut. `snapshots`, `bitmaps`: what else lives in it.
    """

    physical: int
    used_size: int
    snapshots: tuple[Snapshot, ...]
    bitmaps: tuple[Bitmap, ...]


def read_usage(path: Path) -> Usage:
    """How much of its file an image uses; reads the refcount blocks, no L2 table."""
    with Source(path) as source:
        header = read_header(source)
        physical, end = Refcounts(source, header).in_use()
        snapshots, _ = read_snapshots(source, header)
        bitmaps, _, _ = read_bitmaps(source, header)
    return Usage(physical, end, snapshots, bitmaps)


def fragmentation(path: Path) -> float:
    """How disordered the data is: 0 when one read in guest order never jumps, towards 1 always.

    The share of data clusters whose predecessor in guest order is not just before them in the file.
    """
    with Source(path) as source:
        header = read_header(source)
        found = Tables(source, header).map()
    data = found.kind == Kind.DATA
    length, offset = found.length[data], found.offset[data]
    clusters = int((-(-length // header.cluster_size)).sum())
    if clusters < 2:
        return 0.0
    jumps = int(np.count_nonzero(offset[1:] != offset[:-1] + length[:-1]))
    return jumps / (clusters - 1)
