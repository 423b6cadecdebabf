"""The L2 tables that several L1 tables name: each once, and how often it is named."""

from __future__ import annotations

import numpy as np

from sm.cowutil.extents import Int64s
from sm.cowutil.qcow2.pieces import Bools

PENDING = 1 << 18


class Named:
    """Collects tables. Memory: 17 bytes for each, and some MiB."""

    def __init__(self) -> None:
        self._parts: list[tuple[Int64s, Int64s, Bools]] = []
        self._pending = 0
        self._limit = PENDING

    def add(self, offsets: Int64s, times: int, *, active: bool) -> None:
        """Note tables of an L1 table that counts `times`; `active`: that of the disk itself."""
        if len(offsets) == 0:
            return
        uses = np.full(len(offsets), times, dtype=np.int64)
        self._parts.append((offsets, uses, np.full(len(offsets), active, dtype=np.bool_)))
        self._pending += len(offsets)
        if self._pending > self._limit:
            merged = self.distinct()
            self._parts, self._pending = [merged], 0
            self._limit = max(PENDING, len(merged[0]))

    def distinct(self) -> tuple[Int64s, Int64s, Bools]:
        """Offsets, ascending; how often each is named; whether the disk itself names it."""
        if not self._parts:
            none = np.zeros(0, dtype=np.int64)
            return none, none, np.zeros(0, dtype=np.bool_)
        offsets, uses, active = (
            np.concatenate(columns) if len(self._parts) > 1 else columns[0]
            for columns in zip(*self._parts, strict=True)
        )
        if bool((offsets[1:] > offsets[:-1]).all()):
            return offsets, uses, active
        order = np.argsort(offsets, kind="stable")
        offsets = offsets[order]
        first = np.flatnonzero(np.append(True, offsets[1:] != offsets[:-1]))
        return (
            offsets[first],
            np.add.reduceat(uses[order], first),
            np.logical_or.reduceat(active[order], first),
        )
