"""Reads every image of a list in every way and prints what came of it: run in a process of its own.

Usage: child LIST WARM START END. LIST: one `format path` a line. WARM: some like it, read before
anything is counted, so that all modules are there. START and END: files that are opened before the
first image and after the last one, as marks in a trace.

Prints one JSON document a line: path, growth of memory in bytes, and for each reading its `Cost`
and the class, message and offset of its refusal, or what a check reports.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sm.cowutil.errors import ImageCorrupt, ImageError
from sm.cowutil.registry import Formats
from sm.process import run
from tests.hostile.cost import Cost, counted, grown
from tests.hostile.reading import READINGS


def outcome(formats: Formats, name: str, path: Path, reading: str) -> dict[str, Any] | None:
    """What one reading said; anything but a typed refusal ends the process."""
    try:
        report = READINGS[reading](formats, name, path)
    except ImageError as error:
        offset = error.offset if isinstance(error, ImageCorrupt) else None
        return {"error": type(error).__name__, "text": str(error), "offset": offset}
    return {"corruptions": list(report.corruptions)} if report else None


def read_all(
    formats: Formats, name: str, path: Path
) -> dict[str, tuple[dict[str, Any] | None, Cost]]:
    """What each reading said, and what it cost."""
    return {
        reading: counted(partial(outcome, formats, name, path, reading)) for reading in READINGS
    }


def main(arguments: list[str]) -> None:
    listed, warm, start, end = arguments
    formats = Formats(run)
    for line in Path(warm).read_text().splitlines():
        name, _, path = line.partition(" ")
        grown(partial(read_all, formats, name, Path(path)))
    images = [line.partition(" ") for line in Path(listed).read_text().splitlines()]
    Path(start).read_bytes()
    for name, _, path in images:
        found, memory = grown(partial(read_all, formats, name, Path(path)))
        said = {reading: words for reading, (words, _) in found.items()}
        cost = {reading: asdict(spent) for reading, (_, spent) in found.items()}
        print(json.dumps({"path": path, "cost": cost, "memory": memory, "said": said}))
    Path(end).read_bytes()


if __name__ == "__main__":
    main(sys.argv[1:])
