"""`sm vdi tree`: the trees of an SR, and what the collector will do with each image."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from sm import keys
from sm.cli.admin import Admin
from sm.cli.sizes import show_size
from sm.gc.collector import Collector
from sm.gc.planner import Delete, LeafCoalesce, Plan
from sm.pool.base import VdiRecord
from sm.tree import Forest


def tree(admin: Admin, options: Namespace) -> None:
    """Draw all trees of an SR, or that of one VDI."""
    if options.vdi:
        sr, vdi = admin.find_vdi(options.vdi)
    else:
        sr, vdi = (admin.find_sr(options.sr) if options.sr else admin.only_sr()), None
    repository = admin.repository(sr)
    forest = repository.look("vdi tree").forest
    view = _View(forest, repository.vdis(), Collector(repository).plan())
    roots = [forest.root(vdi.uuid)] if vdi else list(forest.roots)
    documents = [view.document(root) for root in roots]
    lines = [line for document in documents for line in _draw(document)]
    admin.output.result({"sr": sr.uuid, "trees": documents}, "\n".join(lines))


class _View:
    def __init__(self, forest: Forest, records: dict[str, VdiRecord], plan: Plan) -> None:
        self._forest = forest
        self._records = records
        self._next = intentions(plan)

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
            "children": [self.document(child) for child in self._forest.children_of(uuid)],
        }


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
    if document["next"]:
        parts.append(f"→ {document['next']}")
    return " · ".join(parts)
