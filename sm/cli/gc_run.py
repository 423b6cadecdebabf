"""`sm gc run`: by this process, or by the collector that runs already."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sm.cli.admin import Admin
from sm.cli.sizes import show_size
from sm.cowutil.base import Progress
from sm.errors import LockFailed
from sm.gc.collector import Collector
from sm.gc.merges.merge import Done
from sm.gc.service.jobs import RECOVER
from sm.gc.state.ledger import FinishedJob, Result
from sm.gc.views.follow import work_now
from sm.repository import Repository

TRY_SECONDS = 1.0
"""How long the lock of a collector is waited for, before asking whether one runs by now."""

Row = dict[str, Any]


def collect(admin: Admin, repository: Repository) -> None:
    """Do all that can be done, whoever does it, and say what was done and what waits."""
    repository.require_master()
    rows: list[Row] = []

    def said(row: Row) -> None:
        rows.append(row)
        if not admin.output.as_json:
            admin.output.result(None, _sentence(row))

    with admin.output.progress("merging") as progress:
        waiting = _until_at_rest(repository, progress, said)
    text = [f"waits: {each['image']}: {each['reason']}" for each in waiting]
    admin.output.result(
        {"done": rows, "remaining": len(waiting), "waiting": waiting},
        "\n".join(text or ["nothing left to do"]),
    )


def _until_at_rest(repository: Repository, progress: Progress, said: Any) -> list[Row]:
    """Work, or have it done; returns what waits, and why."""
    seconds = repository.settings.lock_seconds
    deadline = time.monotonic() + seconds

    def finished(job: FinishedJob) -> None:
        if job.result is Result.DONE and job.action != RECOVER:
            said(_row(_done(job), job.seconds))

    while True:
        status = work_now(repository, progress, finished)
        if status is not None:
            return [_waits(asdict(each)) for each in status.waiting]
        collector = Collector(repository, progress)
        try:
            with collector.alone(min(seconds, TRY_SECONDS)):
                for step in collector.run():
                    said(_row(step.done, step.seconds))
            return [_waits(asdict(each)) for each in collector.waiting()]
        except LockFailed:
            # Another command has it; or a collector that began in this moment, which can be asked.
            if time.monotonic() > deadline:
                raise


def _waits(row: Mapping[str, Any]) -> Row:
    return {key: row[key] for key in ("image", "code", "reason")}


def _done(job: FinishedJob) -> Done:
    return Done(
        job.action, job.images, job.into, job.leaf, job.bytes_copied, job.bytes_freed, job.through
    )


def _row(done: Done, seconds: float) -> Row:
    return {**asdict(done), "images": list(done.images), "seconds": round(seconds, 3)}


def _sentence(row: Row) -> str:
    target = row["leaf"] or row["into"] or ""
    goal = f" into {target[:8]}" if target else ""
    copied = f", {show_size(row['bytes_copied'])} copied" if row["bytes_copied"] else ""
    names = ", ".join(uuid[:8] for uuid in row["images"])
    freed = show_size(row["bytes_freed"])
    return f"{row['action']} {names}{goal}{copied}, {freed} given back"
