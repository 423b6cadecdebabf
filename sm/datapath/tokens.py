"""Processes that carry the token of a note, so that one is found before its number is known.

A token is random. A process has it in its environment (proc(5), `/proc/PID/environ`) from when its
program is executed, and so have those that it forks to go into the background. All of /proc is read
for that, so nobody looks unless a note says that a start was under way and has no process.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import suppress
from pathlib import Path

from sm.datapath.base import OutcomeUnknown
from sm.owner import start_time

VARIABLE = "SM_DATAPATH_TOKEN"

LOOKS = 3
"""Without a find, one after another: what forks and ends is missed by a single look."""

END_SECONDS = 20.0
"""For processes that were killed to be gone; longer only where their storage hangs."""

POLL_SECONDS = 0.005


def new() -> str:
    """A token that no process carries yet."""
    return secrets.token_hex(16)


def carriers(value: str, variable: str = VARIABLE) -> list[int]:
    """The living processes that carry it, as far as one look shows."""
    wanted, found = f"{variable}={value}".encode(), []
    for name in os.listdir("/proc"):  # noqa: PTH208 - only their names
        if not name.isdigit():
            continue
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            environment = Path(f"/proc/{name}/environ").read_bytes()
            if wanted in environment.split(b"\0") and start_time(int(name)) is not None:
                found.append(int(name))
    return found


def end(value: str, variable: str = VARIABLE) -> None:
    """End all that carry it, with force: they came to serve nobody, and have nothing to flush.

    Raises `OutcomeUnknown` where one does not end.
    """
    deadline = time.monotonic() + END_SECONDS
    quiet = 0
    while quiet < LOOKS:
        found = carriers(value, variable)
        quiet = 0 if found else quiet + 1
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if found:
            if time.monotonic() > deadline:
                raise OutcomeUnknown(f"process {found[0]} does not end, not even by SIGKILL")
            time.sleep(POLL_SECONDS)
