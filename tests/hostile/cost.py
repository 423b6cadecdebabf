"""What a reading costs, in things that are counted: they are the same on every machine."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

STATUS = Path("/proc/self/status")
INPUT = Path("/proc/self/io")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Sets the highest memory use to the present one; from proc(5)."""

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """`lines` of Python that were run, each as often as it was; `reads` and what they gave.

    A loop over the entries of a table is a line for each entry at least, where numpy needs one.
    """

    lines: int
    reads: int
    bytes_read: int

    def beyond(self, most: Cost) -> list[str]:
        """What of it is more than `most`, in words."""
        pairs = {
            "lines": (self.lines, most.lines),
            "reads": (self.reads, most.reads),
            "bytes": (self.bytes_read, most.bytes_read),
        }
        return [
            f"{spent:,} {name}, of {most:,}"
            for name, (spent, most) in pairs.items()
            if spent > most
        ]


def counted(work: Callable[[], T]) -> tuple[T, Cost]:
    """Do it, and count what all threads of this process spend on it."""
    numbers = itertools.count()

    def trace(frame: FrameType, event: str, given: Any) -> Any:
        if event == "line":
            next(numbers)  # one call of C, so no thread's line is lost
        return trace

    before = _input()
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        result = work()
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    after = _input()
    return result, Cost(next(numbers), after[0] - before[0], after[1] - before[1])


def grown(work: Callable[[], T]) -> tuple[T, int]:
    """Do it, and tell by how many bytes the memory of this process had grown at most."""
    CLEAR.write_text(RESET_PEAK)
    before = memory("VmHWM")
    result = work()
    return result, memory("VmHWM") - before


def memory(field: str) -> int:
    """One line of the process's status, in bytes."""
    return _field(STATUS, field) << 10


def _input() -> tuple[int, int]:
    return _field(INPUT, "syscr"), _field(INPUT, "rchar")


def _field(file: Path, field: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(field)
