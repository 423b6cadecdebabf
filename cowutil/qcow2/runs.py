"""From L2 entries to what they mean: runs of data, zeros and compressed clusters, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.extents import ExtentMap, Int64s, Kind
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.header import Header
from sm.cowutil.qcow2.steps import Words

_WORD_BITS = np.uint64(32)


def empty_map() -> ExtentMap:
    """A map that holds nothing."""
    none = np.zeros(0, dtype=np.int64)
    return ExtentMap(none, none, np.zeros(0, dtype=np.uint8), none)


def merge(found: ExtentMap) -> ExtentMap:
    """Join neighbours that continue both in the guest and in the file; ascending by guest offset.

    Compressed clusters stay single: each is a stream of its own.
    """
    if len(found.start) < 2:
        return found
    start, length, kind, offset = found.start, found.length, found.kind, found.offset
    joined = start[1:] == start[:-1] + length[:-1]
    joined &= kind[1:] == kind[:-1]
    joined &= kind[1:] != Kind.COMPRESSED
    nowhere = offset[1:] == -1
    joined &= np.where(
        nowhere, offset[:-1] == -1, (offset[:-1] != -1) & (offset[1:] == offset[:-1] + length[:-1])
    )
    first = np.flatnonzero(np.concatenate(([True], ~joined)))
    ends = np.append(first[1:], len(start)) - 1
    return ExtentMap(
        start[first], start[ends] + length[ends] - start[first], kind[first], offset[first]
    )


def concatenate(parts: Sequence[ExtentMap]) -> ExtentMap:
    """One map of many that follow each other and are merged each."""
    parts = [part for part in parts if len(part.start)]
    if not parts:
        return empty_map()
    whole = ExtentMap(
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.length for part in parts]),
        np.concatenate([part.kind for part in parts]),
        np.concatenate([part.offset for part in parts]),
    )
    seams = np.cumsum([len(part.start) for part in parts])[:-1]
    around = np.unique(np.concatenate((seams - 1, seams)))
    near = ExtentMap(*(column[around] for column in _columns(whole)))
    # Only neighbours across a seam can join, so it is enough to look there.
    return merge(whole) if len(merge(near).start) < len(around) else whole


def _columns(found: ExtentMap) -> tuple[Int64s, Int64s, npt.NDArray[np.uint8], Int64s]:
    return found.start, found.length, found.kind, found.offset


class Classifier:
    """Turns the L2 entries of one image into runs, refusing entries that the format forbids."""

    def __init__(self, path: Path, header: Header, file_size: int) -> None:
        self._path = path
        self._header = header
        self._file_size = file_size

    def runs(self, words: Words, guest: Int64s, where: Int64s, length: Int64s) -> ExtentMap:
        """Runs of L2 entries, ascending by guest offset, cut at the virtual size.

        `words`: native uint64, one for each entry, or two with extended L2 entries (shape (n, 2)).
        `guest`: the guest byte that each entry maps. `where`: the file byte of each entry, for
        error messages. `length`: the guest bytes that each stands for: a cluster, or more where
        the entries that follow continue it. What is beyond the virtual size is ignored.
        """
        size = self._header.size
        if len(guest) and guest[-1] + length[-1] > size:
            inside = guest < size
            words, guest, where, length = (
                words[inside],
                guest[inside],
                where[inside],
                length[inside],
            )
            length = np.minimum(length, size - guest)
        if self._header.extended:
            return self._extended(words, guest, where)
        return self._standard(words, guest, where, length)

    def _standard(self, words: Words, guest: Int64s, where: Int64s, length: Int64s) -> ExtentMap:
        union = int(np.bitwise_or.reduce(words)) if len(words) else 0
        offset = (words & np.uint64(layout.OFFSET_MASK)).astype(np.int64)
        kind = np.full(len(words), Kind.DATA, dtype=np.uint8)
        held = offset != 0
        compressed = np.zeros(0, dtype=np.bool_)
        if union & layout.FLAG_COMPRESSED:
            compressed = words & np.uint64(layout.FLAG_COMPRESSED) != 0
            offset[compressed] = self.compressed_offset(words[compressed])
            kind[compressed] = Kind.COMPRESSED
            held |= compressed
        if union & layout.FLAG_ZERO:
            zero = (words & np.uint64(layout.FLAG_ZERO) != 0) & (kind == Kind.DATA)
            if self._header.version == 2:
                self._refuse(zero, where, words, "has the zero flag in a version 2 image")
            kind[zero] = Kind.ZERO
            held |= zero
        self._check_offsets(offset, compressed, words, where, length)
        offset[(kind == Kind.ZERO) & (offset == 0)] = -1
        if held.all():
            return merge(ExtentMap(guest, length, kind, offset))
        return merge(ExtentMap(guest[held], length[held], kind[held], offset[held]))

    def _extended(self, words: Words, guest: Int64s, where: Int64s) -> ExtentMap:
        entry, bits = words[:, 0], words[:, 1]
        compressed = entry & np.uint64(layout.FLAG_COMPRESSED) != 0
        offset = (entry & np.uint64(layout.OFFSET_MASK)).astype(np.int64)
        offset[compressed] = self.compressed_offset(entry[compressed])
        cluster = np.full(len(entry), self._header.cluster_size, dtype=np.int64)
        self._check_offsets(offset, compressed, entry, where, cluster)
        zero = bits >> _WORD_BITS
        data = bits & np.uint64(0xFFFFFFFF)
        self._refuse(compressed & (bits != 0), where, bits, "marks subclusters of a compressed one")
        self._refuse(zero & data != 0, where, bits, "marks a subcluster as data and as zero")
        homeless = (offset == 0) & (data != 0)
        self._refuse(homeless, where, bits, "marks subclusters as data without a cluster")

        plain = ~compressed & (bits != 0)
        shifts = np.arange(layout.SUBCLUSTERS, dtype=np.uint64)
        zeros = (zero[plain, None] >> shifts & np.uint64(1)).astype(bool).ravel()
        held = (data[plain, None] >> shifts & np.uint64(1)).astype(bool).ravel() | zeros
        unit = self._header.cluster_size // layout.SUBCLUSTERS
        steps = np.arange(layout.SUBCLUSTERS, dtype=np.int64) * unit
        starts = (guest[plain, None] + steps).ravel()[held]
        homes = np.where(offset[plain, None] == 0, -1, offset[plain, None] + steps).ravel()[held]
        whole = np.full(int(compressed.sum()), self._header.cluster_size, dtype=np.int64)
        start = np.concatenate((starts, guest[compressed]))
        order = np.argsort(start, kind="stable")
        length = np.concatenate((np.full(len(starts), unit, dtype=np.int64), whole))[order]
        kind = np.where(zeros[held], Kind.ZERO, Kind.DATA)
        kind = np.concatenate((kind, np.full(len(whole), Kind.COMPRESSED)))[order]
        homes = np.concatenate((homes, offset[compressed]))[order]
        start = start[order]
        keep = start < self._header.size
        length = np.minimum(length, self._header.size - start)
        return merge(ExtentMap(start[keep], length[keep], kind[keep].astype(np.uint8), homes[keep]))

    def compressed_offset(self, words: Words) -> Int64s:
        """Where the streams of compressed entries begin."""
        bits = compressed_offset_bits(self._header.cluster_bits)
        return (words & np.uint64((1 << bits) - 1)).astype(np.int64)

    def _check_offsets(
        self,
        offset: Int64s,
        compressed: npt.NDArray[np.bool_],
        words: Words,
        where: Int64s,
        length: Int64s,
    ) -> None:
        """Refuse places that are not clusters of the file; `compressed` is empty without any."""
        unaligned = offset & (self._header.cluster_size - 1) != 0
        if len(compressed):
            unaligned &= ~compressed
            self._refuse(compressed & (offset == 0), where, words, "has a compressed cluster at 0")
        self._refuse(unaligned, where, words, "is not aligned to a cluster")
        last = np.where(
            offset != 0,
            offset + (length - 1) // self._header.cluster_size * self._header.cluster_size,
            0,
        )
        self._refuse(last >= self._file_size, where, words, "points beyond the end of the file")

    def _refuse(
        self, bad: npt.NDArray[np.bool_], where: Int64s, words: Words, problem: str
    ) -> None:
        if bad.any():
            index = int(np.argmax(bad))
            raise ImageCorrupt(
                self._path, "L2 entry", int(where[index]), f"{int(words[index]):#018x} {problem}"
            )


def compressed_offset_bits(cluster_bits: int) -> int:
    """How many low bits of a compressed entry are the offset; the rest counts 512-byte sectors."""
    return 62 - (cluster_bits - 8)


def compressed_range(word: int, cluster_bits: int) -> tuple[int, int]:
    """Offset and length in bytes of the space that a compressed entry refers to.

    The length is up to the end of its last 512-byte sector; the stream may end before.
    """
    bits = compressed_offset_bits(cluster_bits)
    offset = word & ((1 << bits) - 1)
    sectors = (word >> bits & ((1 << (cluster_bits - 8)) - 1)) + 1
    return offset, sectors * 512 - offset % 512


def compressed_ranges(words: Words, cluster_bits: int) -> tuple[Int64s, Int64s]:
    """The same for many entries: arrays of offsets and lengths."""
    bits = compressed_offset_bits(cluster_bits)
    offsets = (words & np.uint64((1 << bits) - 1)).astype(np.int64)
    mask = np.uint64((1 << (cluster_bits - 8)) - 1)
    sectors = (words >> np.uint64(bits) & mask).astype(np.int64) + 1
    return offsets, sectors * 512 - offsets % 512
