"""Finding runs in standard L2 entries before looking at what they mean.

Entries of neighbouring clusters that are also neighbours in the file differ by one cluster, and
entries that have no cluster are equal. So a difference of neighbours shrinks a table to its runs
at memory speed, and only one entry for each run has to be understood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sm.cowutil.extents import Int64s
from sm.cowutil.qcow2 import layout

Words = npt.NDArray[np.uint64]

FEW = 8
"""Runs are worth it when there is at most one for so many entries."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Runs of entries: `first` is the index of the first entry of each, `count` how many follow.

    Within a run all entries are equal and have no cluster, or each is one cluster behind the one
    before. `words`: the first entry of each run.
    """

    first: Int64s
    count: Int64s
    words: Words


class StepFinder:
    """Finds the runs in tables of one image; keeps its buffers from call to call."""

    def __init__(self, cluster_size: int) -> None:
        self._step = np.uint64(cluster_size)
        self._grow(0)

    def _grow(self, entries: int) -> None:
        self._native = np.empty(entries, dtype=np.uint64)
        self._difference = np.empty(entries, dtype=np.uint64)
        self._up = np.empty(entries, dtype=np.bool_)
        self._packed = np.empty(entries, dtype=np.uint64)

    def native(self, entries: Words) -> Words:
        """Big-endian entries in the byte order of this machine; valid until the next call."""
        if len(entries) > len(self._native):
            self._grow(len(entries))
        words = self._native[: len(entries)]
        np.copyto(words, entries)
        return words

    def used(self, entries: Words) -> Words:
        """As `native`, without the entries that are zero.

        By index into memory that is kept: three times faster than by mask into new memory.
        """
        if len(entries) > len(self._packed):
            self._grow(len(entries))
        stored = entries.view(np.uint64)
        used = stored != 0
        if used.all():
            return self.native(entries)
        places = np.flatnonzero(used)
        packed = np.take(stored, places, out=self._packed[: len(places)], mode="clip")
        return self.native(packed.view(">u8"))

    def find(self, words: Words, breaks: Int64s) -> Steps | None:
        """The runs of native `words`, or None where entries are too mixed to have any.

        `breaks`: indices at which a new run must begin.
        """
        count = len(words)
        difference = np.subtract(words[1:], words[:-1], out=self._difference[: count - 1])
        up = np.equal(difference, self._step, out=self._up[: count - 1])
        up[breaks - 1] = False
        if up.all():
            first = np.zeros(1, dtype=np.int64)
        else:
            level = difference == 0
            level[breaks - 1] = False
            starts = ~(up | level)
            starts[1:] |= up[1:] != up[:-1]  # what goes on from here is another kind of run
            if np.count_nonzero(starts) * FEW > count:
                return None
            first = np.concatenate(([0], np.flatnonzero(starts) + 1))
        lengths = np.diff(first, append=count)
        chosen = words[first]
        found = Steps(first, lengths, chosen)
        return found if self._uniform(found, up) else None

    def _uniform(self, found: Steps, up: npt.NDArray[np.bool_]) -> bool:
        """Whether each run of several entries is of one of the two kinds."""
        several = found.count > 1
        words, rising = found.words[several], up[found.first[several]]
        placed = words & np.uint64(layout.OFFSET_MASK | layout.FLAG_COMPRESSED) != 0
        single = words & np.uint64(layout.FLAG_COMPRESSED) != 0
        return bool((rising == placed).all()) and not bool(single.any())
