"""Counting how often each cluster of an image is used: the truth that refcounts must equal.

One byte for each cluster of the file: the count in the low bits, and in the highest bit whether
the stored refcount is exactly 1, which the `copied` flags of table entries must agree with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sm.cowutil.errors import ImageUnsupported
from sm.cowutil.extents import Int64s
from sm.cowutil.qcow2.findings import Findings
from sm.cowutil.qcow2.header import Header
from sm.cowutil.qcow2.refcounts import Refcounts
from sm.cowutil.qcow2.source import Source

MAX_CLUSTERS = 1 << 29
"""Clusters of a file that can be checked: 32 TiB of 64 KiB, in 512 MiB of memory at the most, or
four times that where a cluster is used more often than a byte can count."""

Bools = npt.NDArray[np.bool_]


class References:
    """How often each cluster is used, as far as `add` and its like have been told."""

    def __init__(self, source: Source, header: Header, findings: Findings) -> None:
        self._bits = header.cluster_bits
        self._size = source.size
        self._findings = findings
        self.clusters = -(-source.size // header.cluster_size)
        if self.clusters > MAX_CLUSTERS:
            advice = "use qemu-img check"
            raise ImageUnsupported(source.path, f"{self.clusters} clusters", advice)
        self._table: npt.NDArray[np.uint8] | npt.NDArray[np.uint32]
        self._table = np.zeros(self.clusters, dtype=np.uint8)
        self._flag = 0x80

    def note_single(self, refcounts: Refcounts) -> None:
        """Remember which clusters have a stored refcount of 1; before anything is counted."""
        for first, stored in refcounts.windows(self.clusters):
            flags = self._table[first : first + len(stored)]
            np.equal(stored, 1, out=flags.view(np.bool_))
            np.left_shift(flags, 7, out=flags)

    def single(self, offsets: Int64s) -> Bools:
        """Whether the stored refcount of the cluster at each offset (inside the file) is 1."""
        flags: Bools = self._table[offsets >> self._bits] & self._flag != 0
        return flags

    def add(self, offsets: Int64s, times: int | Int64s = 1) -> None:
        """Count the clusters at these offsets, all inside the file; `times`: for all or each."""
        index = offsets >> self._bits
        if isinstance(times, int):
            if len(index) > 1 and not bool((index[1:] > index[:-1]).all()):
                index, counts = np.unique(index, return_counts=True)
                self._bump(index, counts * times)
                return
            now = self._table[index]
            if times == 1 and not bool((now & self._flag - 1 == self._flag - 1).any()):
                self._table[index] = now + 1  # the usual case, at a third of the cost
            else:
                self._bump(index, np.full(1, times))
            return
        order = np.argsort(index, kind="stable")
        index, times = index[order], times[order]
        first = np.flatnonzero(np.append(True, index[1:] != index[:-1])[: len(index)])
        self._bump(index[first], np.add.reduceat(times, first) if len(first) else times)

    def run_is(self, offset: int, count: int, *, single: bool) -> bool:
        """Whether `count` clusters from `offset` have a stored refcount of 1, or all have not."""
        first = offset >> self._bits
        flags = self._table[first : first + count] & self._flag
        return bool((flags != 0).all()) if single else not bool(flags.any())

    def add_run(self, offset: int, count: int) -> None:
        """Count `count` clusters, one after another, from `offset`; all inside the file."""
        first = offset >> self._bits
        part = self._table[first : first + count]
        if int((part & self._flag - 1).max()) == self._flag - 1:
            index = np.arange(first, first + count, dtype=np.int64)
            self._bump(index, np.ones(1, dtype=np.int64))
        else:
            part += 1

    def add_range(self, offset: int, length: int, times: int, what: str) -> None:
        """Count all clusters that the bytes from `offset` touch; note what is not in the file."""
        if length <= 0:
            return
        if offset + length - self._size >= 1 << self._bits:
            text = f"{what} at byte {offset}: {length} bytes are beyond the end of the file"
            self._findings.tables.add(text)
            return
        last = min((offset + length - 1) >> self._bits, self.clusters - 1)
        index = np.arange(offset >> self._bits, last + 1, dtype=np.int64)
        self._bump(index, np.full(1, times))

    def times(self, offsets: Int64s) -> Int64s:
        """How often the cluster at each offset, inside the file, is used."""
        counts: Int64s = self._table[offsets >> self._bits].astype(np.int64) & self._flag - 1
        return counts

    def window(self, first: int, count: int) -> npt.NDArray[np.integer[Any]]:
        """How often `count` clusters from number `first` are used."""
        return self._table[first : first + count] & self._flag - 1

    def _bump(self, index: Int64s, times: Int64s) -> None:
        """Add `times` to the distinct clusters `index`, in a wider table when it must be."""
        if len(index) == 0:
            return
        total = self.times(index << self._bits)
        total += times
        if int(total.max()) >= self._flag and self._flag == 0x80:
            self._widen()
        flags = self._table[index] & self._flag
        total = np.minimum(total, self._flag - 1)
        self._table[index] = flags | total.astype(self._table.dtype)

    def _widen(self) -> None:
        """Go over to four bytes for each cluster; pages of clusters without use stay untouched."""
        used = np.flatnonzero(self._table)
        narrow = self._table[used]
        wide = np.zeros(self.clusters, dtype=np.uint32)
        wide[used] = narrow & np.uint8(0x7F)
        self._flag = 1 << 31
        wide[used[narrow & np.uint8(0x80) != 0]] |= np.uint32(self._flag)
        self._table = wide
