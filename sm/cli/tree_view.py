"""`sm vdi tree`: the trees of an SR, and what the collector does or will do with each image."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from sm import keys
from sm.cli.admin import Admin
from sm.cli.gc_status import job_document
from sm.cli.sizes import show_size
from sm.cli.watch import watch
from sm.gc.collector import Collector
from sm.gc.plan.planner import Delete, LeafCoalesce, Plan
from sm.gc.state.status import RunningJob
from sm.gc.views.overview import living
from sm.pool.base import SrRecord, VdiRecord
from sm.tree import Forest


def tree(admin: Admin, options: Namespace) -> None:
    """Draw all trees of an SR, or that of one VDI, with the merges under way."""
    if options.vdi:
        sr, vdi = admin.find_vdi(options.vdi)
    else:
        sr, vdi = (admin.find_sr(options.sr) if options.sr else admin.only_sr()), None

    def look() -> tuple[Any, str]:
        return _look(admin, sr, vdi)

    if options.watch:
        watch(admin.output, look)
    else:
        admin.output.result(*look())


def _look(admin: Admin, sr: SrRecord, vdi: VdiRecord | None) -> tuple[Any, str]:
    repository = admin.repository(sr)
    status = living(repository)
    found = Collector(repository).look()
    forest, plan = found.forest, found.plan
    view = _View(forest, repository.vdis(), plan, () if status is None else status.jobs)
    if vdi is None:
        roots = list(forest.roots)
    else:
        roots = [forest.root(vdi.uuid)] if vdi.uuid in forest else []
    documents = [view.document(root) for root in roots]
    lines = [line for document in documents for line in _draw(document)]
    return {"sr": sr.uuid, "trees": documents}, "\n".join(lines)


class _View:
    def __init__(
        self,
        forest: Forest,
        records: dict[str, VdiRecord],
        plan: Plan,
        jobs: Sequence[RunningJob],
    ) -> None:
        self._forest = forest
        self._records = records
        self._next = intentions(plan)
        self._running = under_way(jobs)

    def document(self, uuid: str) -> dict[str, Any]:
        node = self._forest[uuid]
        record = self._records.get(uuid)
        return {
            "uuid": uuid,
            "name": record.name_label if record else "",
            "format": node.format,
            "virtual_size": node.virtual_size,
            "physical_utilisation": node.used,
            "hidden": node.hidden,
            "is_a_snapshot": bool(record and record.is_a_snapshot),
            "active": keys.active_hosts(record.sm_config) if record else {},
            "problem": self._forest.defect(uuid),
            "next": self._next.get(uuid),
            "running": self._running.get(uuid),
            "children": [self.document(child) for child in self._forest.children_of(uuid)],
        }


def under_way(jobs: Sequence[RunningJob]) -> dict[str, dict[str, Any]]:
    """For each image that a job is about: what is done with it, and how far that is."""
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        shown = job_document(job)
        progress = {key: shown[key] for key in ("id", "percent", "seconds_left")}
        gone = [uuid for uuid in (*job.images, job.leaf) if uuid and uuid != job.into]
        what = f"being merged into {job.into[:8]}" if job.into else "being deleted"
        found |= {uuid: {"what": what, **progress} for uuid in gone}
        if job.into:
            names = ", ".join(uuid[:8] for uuid in gone)
            found[job.into] = {"what": f"taking in {names}", **progress}
    return found


def intentions(plan: Plan) -> dict[str, str]:
    """For each image that the collector has a mind about: what it will do, or why it waits."""
    found = {waiting.image: f"waits: {waiting.reason}" for waiting in plan.waiting}
    for action in plan.actions:
        if isinstance(action, Delete):
            found |= dict.fromkeys(action.images, "will be deleted")
            continue
        found |= dict.fromkeys(action.images, f"will be merged into {action.into[:8]}")
        if isinstance(action, LeafCoalesce):
            found[action.leaf] = f"will be merged into {action.into[:8]}"
            found[action.into] = f"will take the place of {action.leaf[:8]}"
    return found


def _draw(document: dict[str, Any], lead: str = "", branch: str = "") -> list[str]:
    lines = [f"{lead}{branch}{_label(document)}"]
    inner = lead + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
    children = document["children"]
    for index, child in enumerate(children):
        last = index == len(children) - 1
        lines += _draw(child, inner, "└─ " if last else "├─ ")
    return lines


def _label(document: dict[str, Any]) -> str:
    name = document["name"] or ("(deleted)" if document["hidden"] else "(no name)")
    kind = "hidden" if document["hidden"] else "snapshot" if document["is_a_snapshot"] else "disk"
    sizes = (
        f"{show_size(document['physical_utilisation'])} of {show_size(document['virtual_size'])}"
    )
    parts = [f"{document['uuid'][:8]} {name}", kind, document["format"], sizes]
    parts += [f"active {mode}" for mode in document["active"].values()]
    if document["problem"]:
        parts.append(f"PROBLEM: {document['problem']}")
    running = document["running"]
    if running:
        percent = running["percent"]
        parts.append(f"⇒ {running['what']}" + ("" if percent is None else f", {percent:.0f} %"))
    elif document["next"]:
        parts.append(f"→ {document['next']}")
    return " · ".join(parts)
