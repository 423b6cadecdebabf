"""A chain opened for a guest: reads through all images, writes to the leaf."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from sm.cowutil.base import Layer
from sm.cowutil.chain import ChainReader
from sm.cowutil.vhd.block_file import BlockFile
from sm.cowutil.vhd.footer import Kind
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.writer import ImageWriter


class VhdDisk:
    """One virtual disk. Offsets and lengths are in bytes and need not be aligned.

    Like a disk with a write cache: what was written before a `flush` survives any crash after it,
    a sector that was written since then has its old or its new contents. Nobody else may have the
    leaf open for writing. Not for several threads at once. Takes over `leaf` and `parents`,
    uppermost first, and closes them.
    """

    def __init__(self, leaf: BlockFile, parents: Sequence[Layer] = ()) -> None:
        self._file = leaf
        self._parents = parents
        try:
            self._writer = ImageWriter(leaf)
            self.virtual_size: int = self._writer.headers.footer.current_size
            self._below = ChainReader(parents, self.virtual_size) if parents else None
        except BaseException:
            self._close_files()
            raise
        self._has_parent = self._writer.headers.footer.kind is Kind.DIFFERENCING

    def pread(self, offset: int, length: int) -> bytes:
        """Return `length` guest bytes from `offset`."""
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with guest bytes from `offset`."""
        self._check_range(offset, len(buffer))
        low, high = _sectors(offset, len(buffer))
        if (low, high) == (offset, offset + len(buffer)):
            self._read_sectors(low, buffer)
            return
        around = bytearray(high - low)
        self._read_sectors(low, memoryview(around))
        buffer[:] = around[offset - low : offset - low + len(buffer)]

    def pwrite(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write guest bytes; durable after the next flush."""
        view = memoryview(data).cast("B")
        self._check_range(offset, len(view))
        low, high = _sectors(offset, len(view))
        if (low, high) != (offset, offset + len(view)):
            around = bytearray(high - low)
            for start in {low, high - SECTOR}:
                self._read_sectors(start, memoryview(around)[start - low : start - low + SECTOR])
            around[offset - low : offset - low + len(view)] = view
            view = memoryview(around)
        self._writer.write(low, view)

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make `length` guest bytes zero; takes no space where they are zero anyway."""
        self._check_range(offset, length)
        low, high = -(-offset // SECTOR) * SECTOR, (offset + length) // SECTOR * SECTOR
        if low >= high:
            self.pwrite(offset, bytes(length))
            return
        self.pwrite(offset, bytes(low - offset))
        for block, start, end in self._by_block(low, high):
            if self._has_parent or self._writer.is_allocated(block):
                self._writer.write_zeroes(start, end - start)
        self.pwrite(high, bytes(offset + length - high))

    def flush(self) -> None:
        """Make everything written so far durable."""
        self._writer.commit()

    def close(self) -> None:
        """Flush and release all files."""
        try:
            self._writer.commit()
        finally:
            self._close_files()

    def _close_files(self) -> None:
        self._file.close()
        for layer in self._parents:
            layer.close()

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.virtual_size:
            raise ValueError(f"bytes {offset} to {offset + length} are not on the disk")

    def _by_block(self, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        size = self._writer.headers.header.block_size
        while low < high:
            block = low // size
            end = min(high, (block + 1) * size)
            yield block, low, end
            low = end

    def _read_sectors(self, offset: int, buffer: memoryview) -> None:
        for block, start, end in self._by_block(offset, offset + len(buffer)):
            piece = buffer[start - offset : end - offset]
            if self._writer.is_allocated(block):
                self._read_block(block, start, piece)
            else:
                self._read_below(start, piece)

    def _read_block(self, block: int, offset: int, buffer: memoryview) -> None:
        first = offset % self._writer.headers.header.block_size // SECTOR
        own = self._writer.present(block)[first : first + len(buffer) // SECTOR]
        edges = np.flatnonzero(np.diff(own)) + 1
        bounds = [0, *edges.tolist(), len(own)]
        for start, end in pairwise(bounds):
            piece = buffer[start * SECTOR : end * SECTOR]
            if own[start]:
                self._writer.read_into(block, (first + start) * SECTOR, piece)
            else:
                self._read_below(offset + start * SECTOR, piece)

    def _read_below(self, offset: int, buffer: memoryview) -> None:
        if self._below is None:
            buffer[:] = bytes(len(buffer))
        else:
            self._below.read_into(offset, buffer)


def _sectors(offset: int, length: int) -> tuple[int, int]:
    """The whole sectors around a range, as (start, end) in bytes; empty for an empty range."""
    if length == 0:
        return offset, offset
    return offset // SECTOR * SECTOR, -(-(offset + length) // SECTOR) * SECTOR
