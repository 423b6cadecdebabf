"""Where each byte of a disk comes from, over a whole chain, as one table without gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sm.cowutil.base import Layer
from sm.cowutil.extents import ExtentMap, Extents, Int64s, Kind

HOLE = 0
"""The kind of a range that no image holds; it reads as zero."""


@dataclass(frozen=True, slots=True, eq=False)
class ChainMap:
    """All of a disk, ascending: each range begins where the one before ends.

    All arrays have the same length. `start`, `length`: guest bytes, int64. `depth`: place in the
    chain of the image that gives the range, int64, 0 for the uppermost, -1 for a hole. `kind`:
    `Kind` or `HOLE`, uint8. `offset`: byte offset in that image's file, int64, -1 where the range
    has no place of its own there (holes, most zeroes, anything compressed).
    """

    start: Int64s
    length: Int64s
    depth: Int64s
    kind: npt.NDArray[np.uint8]
    offset: Int64s

    def __len__(self) -> int:
        return len(self.start)

    def extents(self, *kinds: Kind) -> Extents:
        """The ranges of some kinds."""
        chosen = np.isin(self.kind, kinds)
        start = self.start[chosen]
        return Extents.from_ranges(start, start + self.length[chosen])


def map_chain(layers: Sequence[Layer], virtual_size: int) -> ChainMap:
    """The map of the disk of `virtual_size` bytes seen through `layers`, uppermost first.

    A layer that ends early hides what lies below it there: the rest reads as zero.
    """
    left = Extents.of([(0, virtual_size)])
    parts: list[ChainMap] = []
    for depth, layer in enumerate(layers):
        left = left.clip(0, layer.virtual_size)
        found = layer.map()
        held = found.extents()
        parts.append(_cut(found, held.intersect(left), depth))
        left = left.minus(held)
    covered = Extents.from_ranges(
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.start + part.length for part in parts]),
    )
    parts.append(_holes(Extents.of([(0, virtual_size)]).minus(covered)))
    order = np.argsort(np.concatenate([part.start for part in parts]), kind="stable")
    return ChainMap(
        np.concatenate([part.start for part in parts])[order],
        np.concatenate([part.length for part in parts])[order],
        np.concatenate([part.depth for part in parts])[order],
        np.concatenate([part.kind for part in parts])[order],
        np.concatenate([part.offset for part in parts])[order],
    )


def _cut(found: ExtentMap, visible: Extents, depth: int) -> ChainMap:
    """The rows of one image's map, as far as they are `visible`."""
    ends = found.start + found.length
    first = np.searchsorted(visible.ends, found.start, side="right")
    counts = np.maximum(np.searchsorted(visible.starts, ends, side="left") - first, 0)
    row = np.repeat(np.arange(len(found.start)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    piece = first[row] + within
    start = np.maximum(found.start[row], visible.starts[piece])
    length = np.minimum(ends[row], visible.ends[piece]) - start
    kind, home = found.kind[row], found.offset[row]
    placed = (home >= 0) & (kind != Kind.COMPRESSED)
    offset = np.where(placed, home + start - found.start[row], -1)
    return ChainMap(start, length, np.full(len(row), depth, dtype=np.int64), kind, offset)


def _holes(holes: Extents) -> ChainMap:
    nowhere = np.full(len(holes), -1, dtype=np.int64)
    kind = np.full(len(holes), HOLE, dtype=np.uint8)
    return ChainMap(holes.starts, holes.ends - holes.starts, nowhere, kind, nowhere)
