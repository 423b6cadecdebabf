"""`sm gc status`: what the collector of each SR does now, and why it does nothing else."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sm.cli.admin import Admin
from sm.cli.explain import reasons
from sm.cli.sizes import show_size
from sm.cli.times import show_seconds, show_time
from sm.cli.watch import watch
from sm.cowutil.errors import ImageError
from sm.errors import SmError, SrUnavailable
from sm.gc.plan.planner import ACTION_NAMES, Action, Delete, LeafCoalesce
from sm.gc.state.status import RunningJob
from sm.gc.views.overview import NO_WORKER, Overview, overview
from sm.owner import Owner
from sm.pool.base import SrRecord


def status(admin: Admin, options: Namespace) -> None:
    """Per SR: what its collector does now, and why each image that could go is still there."""

    def look() -> tuple[Any, str]:
        rows = [_row(admin, sr) for sr in admin.chosen_srs(options.sr)]
        return rows, "\n".join(line for row in rows for line in _lines(row))

    if options.watch:
        watch(admin.output, look)
    else:
        admin.output.result(*look())


def _row(admin: Admin, sr: SrRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"uuid": sr.uuid, "name": sr.name_label, "state": "detached"}
    empty: dict[str, Any] = {"detail": "", "since": None, "next_look": None, "worker": None}
    nothing: dict[str, Any] = {"jobs": [], "planned": [], "waiting": [], "unfinished": []}
    try:
        found = overview(admin.repository(sr), admin.ledger, time.time())
    except SrUnavailable:
        return {**row, **empty, **nothing}
    except (SmError, ImageError, OSError) as error:
        said = error.detail if isinstance(error, SmError) else str(error)
        return {**row, **empty, **nothing, "state": "unknown", "detail": said}
    return {
        **row,
        "state": found.state.value,
        **(_worker(found) or empty),
        "jobs": [job_document(job) for job in found.jobs],
        "planned": [planned(action) for action in found.actions],
        "waiting": [
            {**asdict(each), "text": reasons().get(each.code, {}).get("text", "")}
            for each in found.waiting
        ],
        "unfinished": list(found.unfinished),
    }


def _worker(found: Overview) -> dict[str, Any] | None:
    said = found.status
    if said is None:
        return None
    owner = Owner.parse(said.owner)
    return {
        "detail": said.detail,
        "since": said.since,
        "next_look": said.next_look,
        "worker": {"pid": owner.pid, "host": owner.host},
    }


def job_document(job: RunningJob) -> dict[str, Any]:
    """A job under way as JSON has it; `percent` and `seconds_left` are null where not known."""
    percent = 100 * job.bytes_done / job.bytes_total if job.bytes_total else None
    return {
        **asdict(job),
        "images": list(job.images),
        "percent": None if percent is None else round(min(100.0, percent), 1),
        "seconds_left": job.seconds_left,
    }


def planned(action: Action) -> dict[str, Any]:
    """An action as JSON has it. The images are those that will be gone."""
    row: dict[str, Any] = {"action": ACTION_NAMES[type(action)], "images": list(action.images)}
    if not isinstance(action, Delete):
        row["into"] = action.into
    if isinstance(action, LeafCoalesce):
        row["leaf"] = action.leaf
        row["images"].append(action.into)
    return row


def in_words(action: Mapping[str, Any]) -> str:
    """An action or a job, from its document, in a few words."""
    goal = action.get("leaf") or action.get("into")
    names = ", ".join(uuid[:8] for uuid in action["images"])
    return f"{action['action']} {names}" + (f" into {goal[:8]}" if goal else "")


def _lines(row: dict[str, Any]) -> list[str]:
    head = f"{row['uuid']} {row['name']}: {row['state']}"
    if row["since"] is not None:
        head += f" since {show_time(row['since'])}"
    if row["detail"]:
        head += f", {row['detail']}"
    if row["next_look"] is not None:
        head += f", looks again {show_time(row['next_look'])}"
    lines = [head]
    lines += [f"    running: {in_words(job)}{_progress(job)}" for job in row["jobs"]]
    lines += [f"    planned: {in_words(action)}" for action in row["planned"]]
    for entry in row["waiting"]:
        if entry["code"] == NO_WORKER and row["planned"]:
            continue  # the plan says it
        then = entry["next_attempt"]
        again = "" if then is None else f" (next attempt {show_time(then)})"
        lines.append(f"    waits: {entry['image']}: {entry['code']}: {entry['reason']}{again}")
    lines += [f"    unfinished: {name}" for name in row["unfinished"]]
    return lines


def _progress(job: Mapping[str, Any]) -> str:
    words = []
    if job["percent"] is not None:
        done, total = show_size(job["bytes_done"]), show_size(job["bytes_total"])
        words.append(f"{job['percent']:.0f} %, {done} of {total}")
    if job["bytes_per_second"]:
        words.append(f"{show_size(round(job['bytes_per_second']))}/s")
    if job["seconds_left"] is not None:
        words.append(f"{show_seconds(job['seconds_left'])} left")
    return ": " + ", ".join(words) if words else ""
