"""A worker of the collector as others see it: its status file, written from outside."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from sm.gc.state.status import Delayed, RunningJob, State, Status
from sm.owner import Owner


def job(images: tuple[str, ...], into: str, done: int = 50, total: int = 200) -> RunningJob:
    """A merge under way, at 10 bytes a second."""
    return RunningJob("job-1", "coalesce", images, time.time(), into, None, None, done, total, 10.0)


def working(sr: str, *jobs: RunningJob, waiting: tuple[Delayed, ...] = ()) -> Status:
    """The status of a worker that lives as long as this process."""
    now = time.time()
    return Status(
        sr=sr,
        owner=Owner.this_process("host", "sm-gc").text,
        state=State.WORKING if jobs else State.IDLE,
        since=now,
        written=now,
        next_look=now + 300,
        jobs=jobs,
        waiting=waiting,
    )


def dead(status: Status) -> Status:
    """The same as a process that has ended left it."""
    return replace(status, owner=replace(Owner.parse(status.owner), started=1).text)


def run_folder(root: Path) -> Path:
    """Where the status of a site is."""
    return root / "run"
