"""Reads every image of a list in every way and prints what came of it: run in a process of its own.

Usage: child LIMIT LIST WARM START END. LIMIT: seconds; a reading that took more is measured again
and its least time counts, because a busy machine makes any time longer and none shorter. LIST: one
`format path` a line. WARM: one like it that is sound, read before anything is measured, so that all
modules are there. START and END: files that are opened before the first image and after the last
one, as marks in a trace.

Prints one JSON document a line: path, growth of memory in bytes, and for each reading its CPU time
in seconds and the class, message and offset of its refusal, or what a check reports.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from sm.cowutil.errors import ImageCorrupt, ImageError
from sm.cowutil.registry import Formats
from sm.process import run
from tests.hostile.reading import READINGS

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Sets the highest memory use to the present one; from proc(5)."""

ATTEMPTS = 7

REPORT = 5
"""A check that reports has looked at all there is; it may take so many times the limit."""


def memory(field: str) -> int:
    """One line of the process's status, in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise KeyError(field)


def outcome(formats: Formats, name: str, path: Path, reading: str) -> dict[str, Any] | None:
    """What one reading said; anything but a typed refusal ends the process."""
    try:
        report = READINGS[reading](formats, name, path)
    except ImageError as error:
        offset = error.offset if isinstance(error, ImageCorrupt) else None
        return {"error": type(error).__name__, "text": str(error), "offset": offset}
    return {"corruptions": list(report.corruptions)} if report else None


def timed(
    formats: Formats, name: str, path: Path, limit: float
) -> tuple[dict[str, Any], dict[str, float]]:
    """What each reading said, and how many CPU seconds it took."""
    said: dict[str, Any] = {}
    spent = dict.fromkeys(READINGS, math.inf)
    for reading in READINGS:
        for _ in range(ATTEMPTS):
            began = time.process_time()
            said[reading] = found = outcome(formats, name, path, reading)
            spent[reading] = min(spent[reading], time.process_time() - began)
            reported = found is not None and "corruptions" in found
            if spent[reading] <= limit * (REPORT if reported else 1):
                break
    return said, spent


def main(arguments: list[str]) -> None:
    limit, listed, warm, start, end = arguments
    formats = Formats(run)
    for line in Path(warm).read_text().splitlines():
        name, _, path = line.partition(" ")
        timed(formats, name, Path(path), math.inf)
    images = [line.partition(" ") for line in Path(listed).read_text().splitlines()]
    memory("VmRSS")
    Path(start).read_bytes()
    for name, _, path in images:
        CLEAR.write_text(RESET_PEAK)
        before = memory("VmHWM")
        said, spent = timed(formats, name, Path(path), float(limit))
        grown = memory("VmHWM") - before
        print(json.dumps({"path": path, "cpu": spent, "memory": grown, "said": said}))
    Path(end).read_bytes()


if __name__ == "__main__":
    main(sys.argv[1:])
