"""`sm gc plan`, and `sm gc run --dry-run`: what would be done, and what it would cost."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from sm.cli.admin import Admin
from sm.cli.gc_status import in_words, planned
from sm.cli.sizes import show_size
from sm.cli.times import show_seconds
from sm.gc.collector import Collector
from sm.gc.plan.costs import cost, worst_moment
from sm.gc.state.ledger import doing_without
from sm.repository import Repository


def plan(admin: Admin, options: Namespace) -> None:
    """What would be done, in which order, and what it takes: bytes, space, and time.

    Time is told from the speed of the last jobs of the SR; before any it is unknown. Space is what
    must be free at the worst moment of all the work, one step after the other.
    """
    documents = []
    lines: list[str] = []
    chosen = admin.chosen_srs(options.sr)
    for sr in chosen:
        document = _document(admin, admin.repository(sr))
        documents.append({"uuid": sr.uuid, "name": sr.name_label, **document})
        lines += [f"{sr.uuid} {sr.name_label}:"] if len(chosen) > 1 else []
        lines += _lines(document)
    admin.output.result(documents, "\n".join(lines))


def _document(admin: Admin, repository: Repository) -> dict[str, Any]:
    found = Collector(repository).look()
    decided = found.plan
    costs = [cost(repository, found.forest, action) for action in decided.actions]
    speed: float | None = None
    with doing_without():
        speed = admin.ledger.speed(repository.uuid)
    steps = [
        {**planned(action), **asdict(each), "seconds": _seconds(each.bytes_to_copy, speed)}
        for action, each in zip(decided.actions, costs, strict=True)
    ]
    copied = sum(each.bytes_to_copy for each in costs)
    return {
        "planned": steps,
        "waiting": [asdict(waiting) for waiting in decided.waiting],
        "bytes_to_copy": copied,
        "bytes_needed": worst_moment(costs),
        "bytes_freed": sum(each.bytes_freed for each in costs),
        "bytes_free": repository.store.space().free,
        "bytes_per_second": speed,
        "seconds": _seconds(copied, speed),
    }


def _seconds(copied: int, speed: float | None) -> float | None:
    """How long so many bytes take; 0 for none, None where the speed is not known."""
    if not copied:
        return 0.0
    return None if speed is None else copied / speed


def _lines(document: dict[str, Any]) -> list[str]:
    lines = [
        f"{number}. {in_words(step)}{_costs(step)}"
        for number, step in enumerate(document["planned"], start=1)
    ]
    lines += [f"waits: {each['image']}: {each['reason']}" for each in document["waiting"]]
    if not document["planned"]:
        return lines or ["nothing to do"]
    needed, free = document["bytes_needed"], document["bytes_free"]
    enough = "" if needed <= free else " (TOO LITTLE)"
    return [
        *lines,
        f"in all: {show_size(document['bytes_to_copy'])} to copy,"
        f" time {_time(document['seconds'])};"
        f" needs {show_size(needed)} free at the worst moment, {show_size(free)} are{enough};"
        f" gives back {show_size(document['bytes_freed'])}",
    ]


def _costs(step: dict[str, Any]) -> str:
    if not step["bytes_to_copy"]:
        return f": gives back {show_size(step['bytes_freed'])}"
    return (
        f": {show_size(step['bytes_to_copy'])} to copy, time {_time(step['seconds'])},"
        f" gives back {show_size(step['bytes_freed'])}"
    )


def _time(seconds: float | None) -> str:
    return "unknown" if seconds is None else show_seconds(seconds)


def dry_run(admin: Admin, repository: Repository) -> None:
    """Say what a run would do, in the form of its report."""
    found = Collector(repository).look()
    decided = found.plan
    rows = [
        {**planned(action), **asdict(cost(repository, found.forest, action))}
        for action in decided.actions
    ]
    document = {
        "done": [],
        "planned": rows,
        "remaining": len(decided.actions) + len(decided.waiting),
        "waiting": [asdict(waiting) for waiting in decided.waiting],
    }
    lines = [
        f"would {row['action']} {', '.join(row['images'])}"
        + (f", {show_size(row['bytes_to_copy'])} to copy" if row["bytes_to_copy"] else "")
        for row in rows
    ]
    lines += [f"waits: {waiting.image}: {waiting.reason}" for waiting in decided.waiting]
    admin.output.result(document, "\n".join(lines or ["nothing to do"]))
