"""A table of records of different lengths, of which some KiB at a time are in memory."""

from __future__ import annotations

from sm.cowutil.qcow2.source import Source

READ = 256 << 10


class Window:
    """Gives the bytes of records that are asked for in ascending order."""

    def __init__(self, source: Source, field: str, end: int) -> None:
        """`end`: where the table ends at the latest; `field` is what a refusal names."""
        self._source = source
        self._field = field
        self._end = min(end, source.size)
        self._start = 0
        self._bytes = b""

    def at(self, position: int, length: int) -> tuple[bytes, int]:
        """Bytes, and the index in them from which `length` are those at `position` of the file.

        `ImageCorrupt` if these are not in the file.
        """
        index = position - self._start
        if index < 0 or index + length > len(self._bytes):
            ahead = max(length, min(READ, self._end - position))
            self._bytes = self._source.read(position, ahead, self._field)
            self._start, index = position, 0
        return self._bytes, index
