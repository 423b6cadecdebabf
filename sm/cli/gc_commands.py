"""The commands `sm gc`."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from sm.cli import gc_run
from sm.cli.admin import Admin
from sm.cli.sizes import show_size
from sm.errors import SrUnavailable
from sm.gc.collector import Collector
from sm.gc.costs import cost
from sm.gc.planner import Action, Coalesce, Delete, LeafCoalesce, Plan
from sm.pool.base import SrRecord
from sm.repository import Repository


def run(admin: Admin, options: Namespace) -> None:
    """Delete and merge until nothing is left to do, or only say what would be done."""
    repository = admin.repository(admin.find_sr(options.sr))
    if options.dry_run:
        _dry_run(admin, repository)
        return
    gc_run.collect(admin, repository)


def _dry_run(admin: Admin, repository: Repository) -> None:
    collector = Collector(repository)
    decided = collector.plan()
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
        "bytes_to_copy": cost(repository, repository.look("plan").forest, action).bytes_to_copy,
    }
    if not isinstance(action, Delete):
        row["into"] = action.into
    if isinstance(action, LeafCoalesce):
        row["leaf"] = action.leaf
        row["images"].append(action.into)
    return row


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
