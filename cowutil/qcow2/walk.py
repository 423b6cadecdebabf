"""Counting what the L1 and L2 tables of an image refer to, and judging their entries.

Each L2 table is read once, in file order, however many snapshots share it: the work is bounded by
the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sm.cowutil.extents import Int64s
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.findings import Findings, Found
from sm.cowutil.qcow2.header import Header
from sm.cowutil.qcow2.named import Named
from sm.cowutil.qcow2.pieces import Bools, Stored, words_of
from sm.cowutil.qcow2.references import References
from sm.cowutil.qcow2.runs import compressed_ranges
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.steps import StepFinder, Words
from sm.cowutil.qcow2.tables import BATCH_BYTES, TableBuffer

COPIED = np.uint64(layout.FLAG_COPIED)
OFFSET = np.uint64(layout.OFFSET_MASK)

FEW_RUNS = 256
"""Going run by run pays when there is at most one for so many entries."""


@dataclass(frozen=True, slots=True)
class L1:
    """One L1 table: the active one, or that of `times` internal snapshots."""

    offset: int
    entries: int
    times: int
    active: bool


class Walk:
    """Goes through all tables of one image and tells `References` what they use."""

    def __init__(
        self, source: Source, header: Header, references: References, findings: Findings
    ) -> None:
        self._source = source
        self._header = header
        self._references = references
        self._findings = findings

    def run(self, tables: list[L1]) -> None:
        """Count the L1 tables, all L2 tables that they name, and all clusters that these name."""
        claimed = sum(table.entries for table in tables) * self._header.cluster_size
        stored = Stored(self._source, self._header.cluster_size, claimed)
        named = Named()
        for table in tables:
            for offsets in self._level_one(table):
                self._references.add(offsets, table.times)
                # A table that is a hole names nothing, and is not read.
                kept = offsets if stored.all else offsets[stored(offsets)]
                named.add(kept, table.times, active=table.active)
        distinct, uses, is_active = named.distinct()
        step = max(1, BATCH_BYTES // self._header.cluster_size)
        buffer = TableBuffer(self._source, self._header.cluster_size, step)
        finder = StepFinder(self._header.cluster_size)
        for first in range(0, len(distinct), step):
            batch = slice(first, first + step)
            read = buffer.read(distinct[batch])
            now = is_active[batch]
            if self._header.extended or not self._stepwise(read, uses[batch], now, finder):
                self._entrywise(distinct[batch], read, uses[batch], now)

    def _level_one(self, table: L1) -> Iterator[Int64s]:
        """Offsets of the usable L2 tables of one L1 table, some at a time."""
        self._references.add_range(table.offset, table.entries * 8, table.times, "L1 table")
        for first, words in words_of(self._source, table.offset, table.entries, "L1 table"):
            used = np.flatnonzero(words)
            where = table.offset + (first + used) * 8
            offsets, entries, where = self._judge_level_one(words[used], where)
            if table.active:
                self._check_copied("L1 entry", offsets, entries, where)
            yield offsets

    def _judge_level_one(self, words: Words, where: Int64s) -> tuple[Int64s, Words, Int64s]:
        """Note L1 entries that cannot be right; gives offset, entry and place of the usable."""
        offsets = (words & OFFSET).astype(np.int64)
        tables = self._findings.tables
        reserved = words & np.uint64(layout.L1_RESERVED) != 0
        _note(tables, reserved, where, words, "L1 entry has reserved bits set")
        unaligned = offsets & (self._header.cluster_size - 1) != 0
        _note(tables, unaligned, where, words, "L1 entry is not aligned to a cluster")
        beyond = offsets >= self._source.size
        _note(tables, beyond, where, words, "L1 entry points beyond the end of the file")
        good = ~unaligned & ~beyond & (offsets != 0)
        return offsets[good], words[good], where[good]

    def _stepwise(self, tables: Words, times: Int64s, active: Bools, finder: StepFinder) -> bool:
        """Count what some tables name, run by run; false, and nothing done, where that is no use.

        For tables in the usual state only: used once, of the active disk, few runs, no finding.
        """
        if not active.all() or bool((times != 1).any()):
            return False
        # The order in the file does not depend on gaps in the guest.
        words = finder.used(tables.reshape(-1))
        if len(words) == 0:
            return True
        steps = finder.find(words, np.zeros(0, dtype=np.int64))
        if steps is None or len(steps.first) * FEW_RUNS > tables.size:
            return False
        offsets = (steps.words & OFFSET).astype(np.int64)
        zero = steps.words & np.uint64(layout.FLAG_ZERO) != 0
        strange = steps.words & np.uint64(layout.L2_RESERVED | layout.FLAG_COMPRESSED) != 0
        strange |= offsets & (self._header.cluster_size - 1) != 0
        last = offsets + (steps.count - 1) * self._header.cluster_size
        strange |= (offsets != 0) & (last >= self._source.size)
        if bool(strange.any()) or (self._header.version == 2 and bool(zero.any())):
            return False
        used = np.flatnonzero(offsets)
        copied = steps.words[used] & COPIED != 0
        runs = list(zip(offsets[used].tolist(), steps.count[used].tolist(), strict=True))
        for (offset, count), flag in zip(runs, copied.tolist(), strict=True):
            if not self._references.run_is(offset, count, single=flag):
                return False
        for offset, count in runs:
            self._references.add_run(offset, count)
        return True

    def _entrywise(self, offsets: Int64s, tables: Words, times: Int64s, active: Bools) -> None:
        """Count what some L2 tables name, entry by entry."""
        header = self._header
        per_entry = header.entry_bytes // 8
        entries = tables.reshape(-1, per_entry)
        used = np.flatnonzero(entries[:, 0] if per_entry == 1 else entries.any(axis=1))
        words = entries[used, 0].astype(np.uint64)
        row, column = np.divmod(used, header.table_entries)
        where = offsets[row] + column * header.entry_bytes
        each: int | Int64s = times[row] if bool((times != 1).any()) else 1
        compressed = words & np.uint64(layout.FLAG_COMPRESSED) != 0
        if header.extended:
            bits = entries[used, 1].astype(np.uint64)
            self._check_subclusters(words, bits, compressed, where)
        if bool(compressed.any()):
            self._compressed(words[compressed], where[compressed], _pick(each, compressed))
            plain = ~compressed
            words, where, each = words[plain], where[plain], _pick(each, plain)
            row = row[plain]
        self._standard(words, where, each, active[row])

    def _standard(self, words: Words, where: Int64s, times: int | Int64s, active: Bools) -> None:
        offsets = (words & OFFSET).astype(np.int64)
        good, aligned = self._judge(words, offsets, where)
        if not aligned.all():  # it also touches the cluster behind
            second = offsets + self._header.cluster_size
            touched = ~aligned & (second < self._source.size)
            self._references.add(second[touched], _pick(times, touched))
        self._references.add(offsets[good], _pick(times, good))
        judged = good & active & aligned
        self._check_copied("L2 entry", offsets[judged], words[judged], where[judged])

    def _judge(self, words: Words, offsets: Int64s, where: Int64s) -> tuple[Bools, Bools]:
        """Note standard entries that cannot be right; which are usable, and which aligned."""
        tables, header = self._findings.tables, self._header
        held = offsets != 0
        never = layout.L2_RESERVED | (layout.OFFSET_MASK & (header.cluster_size - 1))
        if header.version == 2:
            never |= layout.FLAG_ZERO
        union = int(np.bitwise_or.reduce(words)) if len(words) else 0
        if not union & never and int(offsets.max(initial=0)) < self._source.size:
            return held, np.ones(len(words), dtype=np.bool_)
        reserved = words & np.uint64(layout.L2_RESERVED) != 0
        _note(tables, reserved, where, words, "L2 entry has reserved bits set")
        if header.version == 2:
            zero = words & np.uint64(layout.FLAG_ZERO) != 0
            _note(tables, zero, where, words, "L2 entry has the zero flag in version 2")
        unaligned = offsets & (header.cluster_size - 1) != 0
        _note(tables, unaligned, where, words, "L2 entry is not aligned to a cluster")
        beyond = offsets >= self._source.size
        _note(tables, beyond, where, words, "L2 entry points beyond the end of the file")
        return held & ~beyond, ~unaligned

    def _compressed(self, words: Words, where: Int64s, times: int | Int64s) -> None:
        header = self._header
        copied = words & COPIED != 0
        text = "L2 entry is compressed and has the copied flag"
        _note(self._findings.counts, copied, where, words, text)
        start, length = compressed_ranges(words, header.cluster_bits)
        # qemu lets a stream end up to a cluster behind the file; it must at least begin in it.
        beyond = start + length - self._source.size >= header.cluster_size
        beyond |= start >= self._source.size
        text = "L2 entry points beyond the end of the file"
        _note(self._findings.tables, beyond, where, words, text)
        end = np.minimum(start + length, self._source.size)
        first = start & ~np.int64(header.cluster_size - 1)
        for step in range(3):  # at most two clusters long, at any byte
            place = first + step * header.cluster_size
            touched = ~beyond & (place < end)
            self._references.add(place[touched], _pick(times, touched))

    def _check_subclusters(
        self, words: Words, bits: Words, compressed: Bools, where: Int64s
    ) -> None:
        tables = self._findings.tables
        data = bits & np.uint64(0xFFFFFFFF)
        both = ~compressed & (bits >> np.uint64(32) & data != 0)
        _note(tables, both, where, bits, "L2 entry marks a subcluster as data and as zero")
        homeless = ~compressed & (words & OFFSET == 0) & (data != 0)
        _note(tables, homeless, where, bits, "L2 entry marks data without a cluster")
        odd = compressed & (bits != 0)
        _note(tables, odd, where, bits, "L2 entry marks subclusters of a compressed one")

    def _check_copied(self, what: str, offsets: Int64s, words: Words, where: Int64s) -> None:
        """The copied flag must be set exactly where the stored refcount is 1."""
        wrong = self._references.single(offsets) != (words & COPIED != 0)
        text = f"{what} has a copied flag that contradicts the refcount"
        _note(self._findings.counts, wrong, where, words, text)


def _pick(times: int | Int64s, chosen: Bools) -> int | Int64s:
    return times if isinstance(times, int) else times[chosen]


def _note(found: Found, bad: Bools, where: Int64s, words: Words, problem: str) -> None:
    """Add one finding for each true value of `bad`; the first ones with their place and value."""
    places = np.flatnonzero(bad)
    for index in places[:20].tolist():
        found.add(f"byte {int(where[index])}: {int(words[index]):#018x}: {problem}")
    if len(places) > 20:
        found.add(f"{len(places) - 20} more: {problem}", len(places) - 20)
