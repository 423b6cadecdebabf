"""Reads every image of a list in every way and prints what came of it: run in a process of its own.

Usage: child LIST WARM START END. LIST: one `format path` a line. WARM: one like it that is sound,
read before anything is measured, so that all modules are there. START and END: files that are
opened before the first image and after the last one, as marks in a trace.

Prints one JSON document a line: path, CPU time in seconds, growth of memory in bytes, and for each
reading the class, message and offset of its refusal, or the corruptions that a check reports.
"""

from __future__ import annotations

import json
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


def memory(field: str) -> int:
    """One line of the process's status, in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise KeyError(field)


def outcomes(formats: Formats, name: str, path: Path) -> dict[str, Any]:
    """What each reading said; anything but a typed refusal ends the process."""
    said: dict[str, Any] = {}
    for reading, read in READINGS.items():
        try:
            report = read(formats, name, path)
        except ImageError as error:
            offset = error.offset if isinstance(error, ImageCorrupt) else None
            said[reading] = {"error": type(error).__name__, "text": str(error), "offset": offset}
        else:
            said[reading] = {"corruptions": list(report.corruptions)} if report else None
    return said


def main(arguments: list[str]) -> None:
    listed, warm, start, end = arguments
    formats = Formats(run)
    for line in Path(warm).read_text().splitlines():
        name, _, path = line.partition(" ")
        outcomes(formats, name, Path(path))
    images = [line.partition(" ") for line in Path(listed).read_text().splitlines()]
    memory("VmRSS")
    Path(start).read_bytes()
    for name, _, path in images:
        CLEAR.write_text(RESET_PEAK)
        before, began = memory("VmHWM"), time.process_time()
        said = outcomes(formats, name, Path(path))
        spent = time.process_time() - began
        grown = memory("VmHWM") - before
        print(json.dumps({"path": path, "cpu": spent, "memory": grown, "said": said}))
    Path(end).read_bytes()


if __name__ == "__main__":
    main(sys.argv[1:])
