"""`sm gc history`: the finished jobs of the collectors of this host."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from sm.cli.admin import Admin
from sm.cli.output import table
from sm.cli.sizes import show_size
from sm.cli.times import show_seconds, show_time
from sm.gc.state.ledger import FinishedJob

COLUMNS = {
    "time": "TIME",
    "action": "ACTION",
    "images": "IMAGES",
    "into": "INTO",
    "copied": "COPIED",
    "freed": "FREED",
    "took": "TOOK",
    "rate": "RATE",
    "result": "RESULT",
    "code": "CODE",
}


def history(admin: Admin, options: Namespace) -> None:
    """The last jobs, newest first: what was merged or deleted, how fast, and how it ended."""
    wanted = admin.find_sr(options.sr).uuid if options.sr else None
    jobs = admin.ledger.history(wanted, options.limit)
    document = [
        {**asdict(job), "images": list(job.images), "bytes_per_second": _rate(job)} for job in jobs
    ]
    text = table([_row(job) for job in jobs], COLUMNS) or "no job has ended yet"
    admin.output.result(document, text)


def _rate(job: FinishedJob) -> float | None:
    """Bytes copied per second; None where nothing was copied."""
    return job.bytes_copied / job.seconds if job.bytes_copied and job.seconds else None


def _row(job: FinishedJob) -> dict[str, Any]:
    first = job.images[0][:8] if job.images else "-"
    goal = job.leaf or job.into
    rate = _rate(job)
    return {
        "time": show_time(job.began),
        "action": job.action,
        "images": first if len(job.images) < 2 else f"{first} and {len(job.images) - 1} more",
        "into": goal[:8] if goal else None,
        "copied": show_size(job.bytes_copied),
        "freed": show_size(job.bytes_freed),
        "took": show_seconds(job.seconds),
        "rate": None if rate is None else f"{show_size(round(rate))}/s",
        "result": job.result.value,
        "code": job.code or None,
    }
