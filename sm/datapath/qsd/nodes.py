"""Changes to the graph of a running daemon, each of which may be repeated after a crash of ours.

What the daemon has is asked of the daemon: a note of ours is written after the change that it tells
of, and so may be behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from sm.cowutil.base import ImageRef
from sm.datapath.base import DatapathFailed, OutcomeUnknown
from sm.datapath.qsd.graph import (
    TOP,
    Node,
    file_options,
    format_options,
    image_nodes,
    number,
    top_options,
)

if TYPE_CHECKING:  # asyncio is slow to import, and opening a disk needs none of it
    from sm.datapath.qsd.qmp import Qmp


def files(qmp: Qmp) -> dict[str, str]:
    """All nodes by name, each with the file that it was opened with; of format nodes a riddle."""
    found = qmp.call("query-named-block-nodes", {"flat": True})
    return {each["node-name"]: each["file"] for each in found}


def sizes(qmp: Qmp) -> dict[str, int]:
    """The virtual sizes of all nodes in bytes."""
    found = qmp.call("query-named-block-nodes", {"flat": True})
    return {each["node-name"]: each["image"]["virtual-size"] for each in found}


def require_mergeable(qmp: Qmp, run: Sequence[Node]) -> None:
    """Refuse to merge images, uppermost first, of which one hides the end of the one below it."""
    found = sizes(qmp)
    for upper, lower in pairwise(run):
        if found[upper.format] < found[lower.format]:
            raise DatapathFailed(
                f"{upper.image.path.name} is smaller than {lower.image.path.name}: what lies behind"
                " its end would show"
            )


def is_sealed(qmp: Qmp, node: Node) -> bool:
    """Whether the file of an image was opened only to be read."""
    found = qmp.call("query-named-block-nodes", {"flat": True})
    return any(each["node-name"] == node.file and each["ro"] for each in found)


def under_top(qmp: Qmp) -> str:
    """The name of the node that `TOP` stands on now."""
    found = qmp.call("query-blockstats", {"query-nodes": True})
    top = next(each for each in found if each.get("node-name") == TOP)
    return str(top["parent"]["node-name"])


def written(qmp: Qmp) -> dict[str, int]:
    """How far each node was written since it was opened, in bytes."""
    found = qmp.call("query-blockstats", {"query-nodes": True})
    return {each["node-name"]: each["stats"]["wr_highest_offset"] for each in found}


def put_under_top(qmp: Qmp, name: str, *, read_only: bool) -> None:
    """Have `TOP` stand on another node."""
    qmp.call("blockdev-reopen", {"options": [top_options(name, read_only=read_only)]})


def add(
    qmp: Qmp, chain: Sequence[ImageRef], *, read_only: bool, parents: bool = False
) -> list[Node]:
    """Open images that nothing refers to yet, uppermost first; none stays open after a refusal.

    `read_only`: of the disk. With `parents`, none of them is a leaf.
    """
    nodes = number(chain, _free_number(qmp))
    before = set(files(qmp))
    try:
        for pair in image_nodes(nodes, read_only=read_only, parents=parents):
            for options in pair:
                qmp.call("blockdev-add", options)
    except OutcomeUnknown:
        raise
    except DatapathFailed:
        _delete(qmp, set(files(qmp)) - before)
        raise
    return list(nodes)


def sweep(qmp: Qmp, keep: Iterable[Node]) -> None:
    """Close all images but some; nothing may refer to them from outside.

    So what a crash of ours left open is closed too.
    """
    kept = {name for node in keep for name in (node.file, node.format)}
    _delete(qmp, {name for name in files(qmp) if _is_image(name)} - kept)


def delete(qmp: Qmp, names: Iterable[str]) -> None:
    """Delete nodes, those that there are."""
    _delete(qmp, set(names) & set(files(qmp)))


def add_leaf(qmp: Qmp, old: Sequence[Node], chain: Sequence[ImageRef]) -> list[Node]:
    """Put a new empty image on top; from then on it takes all writes.

    `chain` has it over the images that the `old` nodes are, under the names they have now.
    """
    below = [Node(node.number, image) for node, image in zip(old, chain[1:], strict=True)]
    name = under_top(qmp)
    if name != old[0].format:
        # We ended after the daemon had gone over, and before we took note of it.
        fresh = Node(int(name[1:]), chain[0])
        opened = files(qmp)[fresh.file]
        if opened != str(chain[0].path):
            raise DatapathFailed(f"{opened} is on top already")
        return [fresh, *below]
    sweep(qmp, old)
    fresh = Node(_free_number(qmp), chain[0])
    qmp.call("blockdev-add", file_options(fresh, read_only=False))
    try:
        qmp.call("blockdev-add", format_options(fresh, None, read_only=False))
        found = sizes(qmp)
        if found[fresh.format] != found[TOP]:
            raise DatapathFailed(f"the new leaf has {found[fresh.format]} bytes, not {found[TOP]}")
    except OutcomeUnknown:
        raise
    except DatapathFailed:
        sweep(qmp, old)
        raise
    qmp.call("blockdev-snapshot", {"node": old[0].format, "overlay": fresh.format})
    return [fresh, *below]


def relink(qmp: Qmp, leaf: Node, chain: Sequence[ImageRef], *, read_only: bool) -> list[Node]:
    """Have the leaf stand on parents that are opened afresh, and name the first of them.

    An open node of a changed image has stale tables, and a stale header, which it would write back.
    """
    top, parents = Node(leaf.number, chain[0]), chain[1:]
    fresh = add(qmp, parents, read_only=read_only, parents=True)
    options = format_options(top, fresh[0] if fresh else None, read_only=read_only)
    qmp.call("blockdev-reopen", {"options": [options]})
    if fresh and not read_only:
        qmp.call(
            "change-backing-file",
            {
                "device": TOP,
                "image-node-name": top.format,
                "backing-file": fresh[0].image.path.name,
            },
        )
    sweep(qmp, [top, *fresh])
    return [top, *fresh]


def _is_image(name: str) -> bool:
    return name[:1] in {"f", "n"} and name[1:].isdecimal()


def _free_number(qmp: Qmp) -> int:
    return 1 + max((int(name[1:]) for name in files(qmp) if _is_image(name)), default=0)


def _delete(qmp: Qmp, names: set[str]) -> None:
    """Delete nodes that refer to none but each other, in whichever order that goes."""
    left = sorted(names, reverse=True)
    while left:
        refused: list[str] = []
        for name in left:
            try:
                qmp.call("blockdev-del", {"node-name": name})
            except OutcomeUnknown:
                raise
            except DatapathFailed:
                if len(refused) + 1 == len(left):
                    raise
                refused.append(name)
        left = refused
