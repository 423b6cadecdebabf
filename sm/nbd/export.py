"""What a server serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Export(Protocol):
    """A disk. Offsets and lengths are in bytes, within its size, and need not be aligned.

    Called from many threads at once. Failures are OSError, whose errno the client gets.
    """

    size: int
    read_only: bool

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the disk from `offset`."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write; durable after the next flush."""

    def write_zeroes(self, offset: int, length: int, *, allocate: bool) -> None:
        """Make zero; with `allocate`, later writes there need no more space."""

    def trim(self, offset: int, length: int) -> None:
        """The contents are no longer needed, and may become anything."""

    def cache(self, offset: int, length: int) -> None:
        """Reads from there are likely."""

    def flush(self) -> None:
        """Make all writes that have returned durable, whichever thread they came from."""

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """(length, whether it is a hole that reads as zero), from `offset` on."""
