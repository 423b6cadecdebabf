"""Bounded reading of an untrusted image: every range is checked before memory is taken for it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.raw import data_ranges, open_image, read_fully


class Source:
    """An image opened read-only; a context manager. `size` is that of the file or device."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor, self.size = open_image(path)

    def read(self, offset: int, length: int, field: str) -> bytes:
        """Exactly `length` bytes from `offset`; `ImageCorrupt` naming `field` if not in the file.

        The caller has put a cap on `length`.
        """
        self.require(offset, length, field)
        data = os.pread(self.descriptor, length, offset)
        if len(data) == length:
            return data
        buffer = bytearray(length)
        read_fully(self.descriptor, offset, memoryview(buffer))
        return bytes(buffer)

    def require(self, offset: int, length: int, field: str) -> None:
        """Raise `ImageCorrupt` naming `field` if the range is not in the file."""
        if offset + length > self.size:
            problem = f"{length} bytes from {offset} are beyond the end of the file ({self.size})"
            raise ImageCorrupt(self.path, field, offset, problem)

    @property
    def allocated(self) -> int:
        """How many bytes the file takes on its disk; of a block device all."""
        status = os.fstat(self.descriptor)
        return self.size if stat.S_ISBLK(status.st_mode) else status.st_blocks * 512

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Half-open ranges that are not holes, ascending; all of a block device."""
        return data_ranges(self.descriptor, 0, self.size)

    def next_data(self, offset: int) -> int:
        """Where, at or behind `offset`, the first byte is that is not in a hole; else `size`."""
        return next(data_ranges(self.descriptor, offset, self.size), (self.size, self.size))[0]

    def read_padded(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`, with zeros beyond the end of the file.

        qemu reads the last cluster of a file so when the file ends inside it.
        """
        read_fully(self.descriptor, offset, buffer)

    def close(self) -> None:
        """Release the file."""
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
