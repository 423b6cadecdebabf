"""`sm gc run`: collect, here and now."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from sm.cli.admin import Admin
from sm.cli.gc_plan import dry_run
from sm.cli.sizes import show_size
from sm.gc.collector import Collector, Step


def run(admin: Admin, options: Namespace) -> None:
    """Delete and merge until nothing is left to do, or only say what would be done."""
    repository = admin.repository(admin.find_sr(options.sr))
    if options.dry_run:
        dry_run(admin, repository)
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
    names = ", ".join(uuid[:8] for uuid in done.images)
    return f"{done.action} {names}{goal}{copied}, {show_size(done.bytes_freed)} given back"
