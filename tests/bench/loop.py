"""The scan against the loop that one would write first, in Python, over each entry."""

from __future__ import annotations

import os
from pathlib import Path

from tests.bench.limit import OFFSET, TABLE, table_offsets
from tests.bench.measure import Row, in_turn
from tests.bench.scan import size
from tests.bench.workshop import GIB, Workshop


def count(path: Path) -> int:
    """Entries in use."""
    used = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for offset in table_offsets(path).tolist():
            table = os.pread(descriptor, TABLE, offset)
            for place in range(0, TABLE, 8):
                if int.from_bytes(table[place : place + 8], "big") & OFFSET:
                    used += 1
    finally:
        os.close(descriptor)
    return used


def run(workshop: Workshop) -> list[Row]:
    """Allocated bytes of a smaller image."""
    path = workshop.image("half", 64 * GIB)
    taken = in_turn({"ours": lambda: size(path), "loop": lambda: count(path)}, repeat=3)
    return [
        Row(
            "loop", "size, half 64 GiB", taken["ours"], "loop over entries in Python", taken["loop"]
        )
    ]
