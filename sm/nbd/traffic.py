"""What clients moved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Traffic:
    """Bytes and requests that were answered well. Zeroing and trimming move no data.

    Each connection has its own, which its thread alone changes; so counting takes no lock.
    """

    bytes_read: int = 0
    bytes_written: int = 0
    reads: int = 0
    writes: int = 0

    def add(self, other: Traffic) -> None:
        """Count what another one has counted."""
        self.bytes_read += other.bytes_read
        self.bytes_written += other.bytes_written
        self.reads += other.reads
        self.writes += other.writes
