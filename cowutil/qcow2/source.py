"""Bounded reading of an untrusted image: every range is checked before memory is taken for it."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.raw import open_image, read_fully


class Source:
    """An image opened read-only; a context manager. `size` is that of the file or device."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor, self.size = open_image(path)

    def read(self, offset: int, length: int, field: str) -> bytes:
        """Exactly `length` bytes from `offset`; `ImageCorrupt` naming `field` if not in the file.

        The caller has put a cap on `length`.
        """
        if offset + length > self.size:
            problem = f"{length} bytes from {offset} are beyond the end of the file ({self.size})"
            raise ImageCorrupt(self.path, field, offset, problem)
        data = os.pread(self.descriptor, length, offset)
        if len(data) == length:
            return data
        buffer = bytearray(length)
        read_fully(self.descriptor, offset, memoryview(buffer))
        return bytes(buffer)

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
