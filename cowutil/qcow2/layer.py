"""The guest data of one QCOW2 image, without its parents."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from sm.cowutil.base import Layer
from sm.cowutil.extents import Bits, ExtentMap, Extents, Kind
from sm.cowutil.qcow2.compressed import decompress
from sm.cowutil.qcow2.header import read_header
from sm.cowutil.qcow2.held import held_bitmap, held_extents, held_size
from sm.cowutil.qcow2.runs import compressed_range
from sm.cowutil.qcow2.snapshots import as_of
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.tables import Tables


class Qcow2Layer(Layer):
    """An open image, or one of its internal snapshots: L1 is read once, the rest as needed."""

    def __init__(self, path: Path, snapshot: str | None = None) -> None:
        self._source = Source(path)
        try:
            self._header = read_header(self._source)
            if snapshot is not None:
                self._header = as_of(self._source, self._header, snapshot)
            self._tables = Tables(self._source, self._header)
        except BaseException:
            self._source.close()
            raise
        self.virtual_size = self._header.size

    def map(self) -> ExtentMap:
        """Everything that this image holds, in guest order."""
        return self._tables.map()

    def map_window(self, start: int, end: int) -> ExtentMap:
        """The part of the map that touches the guest bytes from `start` to `end`.

        The map is that of the first call: what is in the image then.
        """
        whole = self._whole
        first = int(np.searchsorted(whole.start + whole.length, start, side="right"))
        last = int(np.searchsorted(whole.start, end, side="left"))
        part = slice(first, last)
        return ExtentMap(
            whole.start[part], whole.length[part], whole.kind[part], whole.offset[part]
        )

    @cached_property
    def _whole(self) -> ExtentMap:
        return self.map()

    def held(self) -> Extents:
        """The guest bytes of the map; cheaper than the map itself."""
        return held_extents(self._tables, self._header)

    def held_between(self, start: int, end: int) -> Extents:
        """The guest bytes held between two, from the tables that map them alone."""
        held = Extents.of(())
        span = self._tables.span
        for at in range(start // span * span, end, span):
            found, _ = self._tables.map_range(max(start, at), min(end, at + span))
            held = held.union(found.extents())
        return held.clip(start, end)

    def held_size(self) -> int:
        """How many guest bytes these are, without keeping them in memory."""
        return held_size(self._tables, self._header)

    def bitmap(self) -> Bits:
        """One bit for each guest cluster, the first one highest; errors as of `held_bitmap`."""
        return held_bitmap(self._tables, self._header)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with guest bytes from `offset`; ValueError where the image holds none."""
        end = offset + len(buffer)
        if end > self.virtual_size:
            raise ValueError(f"bytes {offset} to {end} are beyond the disk")
        position = offset
        while position < end:
            stop = min(end, (position // self._tables.span + 1) * self._tables.span)
            self._read_table(position, stop, buffer[position - offset : stop - offset])
            position = stop

    def _read_table(self, start: int, end: int, buffer: memoryview) -> None:
        """Fill `buffer` with the guest bytes from `start` to `end`, all mapped by one L2 table."""
        found, words = self._tables.map_range(start, end)
        base = start // self._header.cluster_size * self._header.cluster_size
        runs = zip(
            found.start.tolist(),
            found.length.tolist(),
            found.kind.tolist(),
            found.offset.tolist(),
            strict=True,
        )
        position = start
        for guest, length, kind, home in runs:
            first, last = max(guest, start), min(guest + length, end)
            if first >= last:
                continue
            if first != position:
                break
            target = buffer[first - start : last - start]
            if kind == Kind.DATA:
                self._source.read_padded(home + first - guest, target)
            elif kind == Kind.ZERO:
                target[:] = bytes(len(target))
            else:
                entry = words.reshape(len(words), -1)[(guest - base) // self._header.cluster_size]
                target[:] = self._cluster(int(entry[0]))[first - guest : last - guest]
            position = last
        if position != end:
            raise ValueError(f"byte {position} of the disk is not in this image")

    def _cluster(self, word: int) -> bytes:
        offset, length = compressed_range(word, self._header.cluster_bits)
        length = min(length, self._source.size - offset)
        data = self._source.read(offset, length, "compressed cluster")
        kind, size = self._header.compression, self._header.cluster_size
        return decompress(self._source.path, kind, data, offset, size)

    def close(self) -> None:
        """Release the file."""
        self._source.close()
