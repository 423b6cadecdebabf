"""The commands `sm gc`."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from sm.cli.admin import Admin
from sm.cli.sizes import show_size
from sm.errors import SrUnavailable
from sm.gc.collector import Collector, Step, expected_bytes
from sm.gc.planner import Action, Coalesce, Delete, LeafCoalesce, Plan
from sm.pool.base import SrRecord
from sm.repository import Repository


def run(admin: Admin, options: Namespace) -> None:
    """Delete and merge until nothing is left to do, or only say what would be done."""
    repository = admin.repository(admin.find_sr(options.sr))
    if options.dry_run:
        _dry_run(admin, repository)
        return
    steps: list[Step] = []
    with admin.output.progress("merging") as progress:
        collector = Collector(repository, progress)
        with collector.alone():
            for step in collector.run():
                steps.append(step)
                if not admin.output.as_json:
                    admin.output.result(None, _sentence(step))
    left = collector.plan()
    document = {
        "done": [_step(step) for step in steps],
        "remaining": len(left.actions) + len(left.waiting),
        "waiting": [asdict(waiting) for waiting in left.waiting],
    }
    text = [f"waits: {waiting.image}: {waiting.reason}" for waiting in left.waiting]
    admin.output.result(document, "\n".join(text or ["nothing left to do"]))


def _dry_run(admin: Admin, repository: Repository) -> None:
    decided = Collector(repository).plan()
    planned = [_planned(repository, action) for action in decided.actions]
    document = {
        "done": [],
        "planned": planned,
        "remaining": len(decided.actions) + len(decided.waiting),
        "waiting": [asdict(waiting) for waiting in decided.waiting],
    }
    lines = [
        f"would {row['action']} {', '.join(row['images'])}"
        + (f", {show_size(row['bytes_to_copy'])} to copy" if row["bytes_to_copy"] else "")
        for row in planned
    ]
    lines += [f"waits: {waiting.image}: {waiting.reason}" for waiting in decided.waiting]
    admin.output.result(document, "\n".join(lines or ["nothing to do"]))


def _planned(repository: Repository, action: Action) -> dict[str, Any]:
    names = {Delete: "delete", Coalesce: "coalesce", LeafCoalesce: "leaf-coalesce"}
    row: dict[str, Any] = {
        "action": names[type(action)],
        "images": list(action.images),
        "bytes_to_copy": expected_bytes(repository, action),
    }
    if not isinstance(action, Delete):
        row["into"] = action.into
    if isinstance(action, LeafCoalesce):
        row["leaf"] = action.leaf
        row["images"].append(action.into)
    return row


def _step(step: Step) -> dict[str, Any]:
    return {
        **asdict(step.done),
        "images": list(step.done.images),
        "seconds": round(step.seconds, 3),
    }


def _sentence(step: Step) -> str:
    done = step.done
    goal = f" into {(done.leaf or done.into or '')[:8]}" if done.leaf or done.into else ""
    copied = f", {show_size(done.bytes_copied)} copied" if done.bytes_copied else ""
    paused = f", users held for {done.pause_seconds:.2f} s" if done.pause_seconds else ""
    names = ", ".join(uuid[:8] for uuid in done.images)
    return f"{done.action} {names}{goal}{copied}{paused}, {show_size(done.bytes_freed)} given back"


def status(admin: Admin, options: Namespace) -> None:
    """Per SR: what is planned, what waits and why, and unfinished work."""
    chosen = [admin.find_sr(options.sr)] if options.sr else admin.pool.srs()
    rows = [_status(admin, sr) for sr in chosen]
    lines: list[str] = []
    for row in rows:
        lines.append(f"{row['uuid']} {row['name']}: {row['state']}")
        lines += [f"    planned: {name}" for name in row["planned"]]
        lines += [f"    waits: {entry['image']}: {entry['reason']}" for entry in row["waiting"]]
        lines += [f"    unfinished: {name}" for name in row["unfinished"]]
    admin.output.result(rows, "\n".join(lines))


def _status(admin: Admin, sr: SrRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"uuid": sr.uuid, "name": sr.name_label}
    try:
        repository = admin.repository(sr)
    except SrUnavailable:
        return {**row, "state": "detached", "planned": [], "waiting": [], "unfinished": []}
    decided: Plan = Collector(repository).plan()
    unfinished = [f"{entry.operation} of {entry.key}" for entry in repository.journal.entries()]
    state = "working" if unfinished else "has work" if decided.actions else "idle"
    return {
        **row,
        "state": state,
        "planned": [f"{type(a).__name__} {', '.join(a.images)}" for a in decided.actions],
        "waiting": [asdict(waiting) for waiting in decided.waiting],
        "unfinished": unfinished,
    }
