"""One VHD opened for reading what it holds itself."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from sm.cowutil.base import Layer
from sm.cowutil.extents import ExtentMap, Kind
from sm.cowutil.vhd.block_file import BlockFile
from sm.cowutil.vhd.extents import held
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.header import UNUSED
from sm.cowutil.vhd.headers import Headers, load_headers
from sm.cowutil.vhd.tables import Tables, load_tables


class VhdLayer(Layer):
    """A sparse or fixed VHD; takes over `file` and closes it, also when opening fails."""

    def __init__(self, file: BlockFile) -> None:
        self._file = file
        try:
            self.headers: Headers = load_headers(file)
        except BaseException:
            file.close()
            raise
        self.virtual_size = self.headers.footer.current_size

    @cached_property
    def tables(self) -> Tables:
        """The validated tables, read on first use; not for a fixed disk."""
        return load_tables(self._file, self.headers)

    def map(self) -> ExtentMap:
        """Read all sector bitmaps that the batmap does not save."""
        return self.map_window(0, self.virtual_size)

    def allocated_size(self) -> int:
        """Guest bytes in allocated blocks, read from the allocation table alone."""
        if self.headers.sparse is None:
            return self.virtual_size
        block_size = self.headers.header.block_size
        return min(self.virtual_size, len(self.tables.allocated) * block_size)

    def map_window(self, start: int, end: int) -> ExtentMap:
        """What this image holds in the blocks that touch the guest bytes from `start` to `end`."""
        if self.headers.sparse is None:
            size = np.array([self.virtual_size], dtype=np.int64)
            zero = np.zeros(1, dtype=np.int64)
            return ExtentMap(zero, size, np.array([Kind.DATA], dtype=np.uint8), zero)
        block_size = self.headers.header.block_size
        first, last = start // block_size, -(-end // block_size)
        return held(self._file, self.headers, self.tables, first, last)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`; ValueError where no block is allocated."""
        if self.headers.sparse is None:
            self._fill(offset, buffer)
            return
        header = self.headers.header
        while buffer:
            block, within = divmod(offset, header.block_size)
            count = min(len(buffer), header.block_size - within)
            position = int(self.tables.bat[block])
            if position == UNUSED:
                raise ValueError(f"byte {offset} is not in the map of {self._file.path}")
            self._fill(position * SECTOR + header.bitmap_size + within, buffer[:count])
            buffer = buffer[count:]
            offset += count

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _fill(self, offset: int, buffer: memoryview) -> None:
        done = self._file.read_into(offset, buffer)
        # The end of the block allocated last may be a hole behind the end of the file.
        buffer[done:] = bytes(len(buffer) - done)
