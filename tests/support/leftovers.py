"""Processes that outlive the test that started them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

WAIT_SECONDS = 10.0


def end_processes(folder: str) -> None:
    """Kill every process that was started with `folder` in its command line; none is left then."""
    killed = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
            if os.fsencode(folder) in words:
                os.kill(int(entry.name), signal.SIGKILL)
                killed.append(entry)
        except (FileNotFoundError, ProcessLookupError):
            continue
    deadline = time.monotonic() + WAIT_SECONDS
    while any(map(_has_files, killed)) and time.monotonic() < deadline:
        time.sleep(0.01)


def _has_files(process: Path) -> bool:
    """Whether a process that was killed may still have files open."""
    try:
        return b") Z" not in (process / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
