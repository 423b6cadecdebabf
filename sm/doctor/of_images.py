"""Findings about the images of an SR and what else lies beside them. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from sm.doctor.facts import Facts
from sm.doctor.finding import Finding, Scan
from sm.tree import STRANGER, Node

CHAIN_MARGIN = 5
"""A chain is near its limit when at most so many more snapshots are possible."""


def damaged(facts: Facts) -> Iterator[Finding]:
    """Images that cannot be read or used, and what a full check found."""
    for node in facts.forest:
        defect = facts.forest.defect(node.uuid)
        if defect is not None:
            code = _code_of_defect(facts, node)
            if code != "circle":
                yield _of_image(facts, node, code, defect)
        elif facts.damage.get(node.uuid):
            found = facts.damage[node.uuid]
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            yield _of_image(facts, node, "image-corrupt", f"{found[0]}{more}")


def _code_of_defect(facts: Facts, node: Node) -> str:
    assert facts.scan is not None  # noqa: S101 - without a scan there are no nodes
    info = facts.scan.infos.get(node.uuid)
    if node.problem:
        if node.twice:
            return "image-twice"
        if info is None:
            return "image-unreadable"
        return "image-corrupt" if "corrupt" in info.marks else "parent-unfit"
    if node.uuid in facts.forest.circular:
        return "circle"
    return "parent-missing" if (node.parent or "") not in facts.forest else "parent-unfit"


def _of_image(facts: Facts, node: Node, code: str, text: str) -> Finding:
    verb = "info" if code.startswith("parent") else "check"
    command = f"sm image {verb} {_path(facts, node.uuid)} --alone"
    return Finding(code, facts.sr.uuid, node.uuid, text, command)


def _path(facts: Facts, uuid: str) -> str:
    assert facts.scan is not None  # noqa: S101 - without a scan there are no nodes
    return shlex.quote(str(facts.scan.volumes[uuid].path))


def circles(facts: Facts) -> Iterator[Finding]:
    """One finding for each circle of parents, with all that hang on it."""
    groups: dict[frozenset[str], list[str]] = {}
    for uuid in sorted(facts.forest.circular):
        if not facts.forest[uuid].problem:
            groups.setdefault(_circle_below(facts, uuid), []).append(uuid)
    for circle, members in groups.items():
        text = f"{' -> '.join(sorted(circle))} are each other's parents; {len(members)} images"
        first = min(circle)
        command = f"sm image info {_path(facts, first)} --alone"
        yield Finding("circle", facts.sr.uuid, first, text, command)


def _circle_below(facts: Facts, uuid: str) -> frozenset[str]:
    """The images of the circle that the chain of an image runs into."""
    last = facts.forest.chain(uuid)[-1]
    return frozenset(node.uuid for node in facts.forest.chain(last.parent or last.uuid))


def long_chains(facts: Facts) -> Iterator[Finding]:
    """The longest chain of each tree that is near the limit of its format."""
    forest = facts.forest
    for root in forest.roots:
        limit = facts.limits.get(forest[root].format)
        leaves = [leaf for leaf in forest.leaves_above(root) if not leaf.hidden]
        if limit is None or root in forest.circular or not leaves:
            continue
        deepest = max(leaves, key=lambda leaf: forest.depth(leaf.uuid))
        depth = forest.depth(deepest.uuid)
        if depth < limit - CHAIN_MARGIN:
            continue
        text = f"its chain has {depth} images, the limit is {limit}"
        if any(_can_be_merged(facts, node) for node in forest.chain(deepest.uuid)):
            command = f"sm gc run --sr {facts.sr.uuid}"
        else:
            text += "; delete snapshots of it"
            command = f"sm vdi tree {deepest.uuid}"
        yield Finding("chain-near-limit", facts.sr.uuid, deepest.uuid, text, command)


def _can_be_merged(facts: Facts, node: Node) -> bool:
    """Whether a hidden image is the only child of another, or the only one below a leaf."""
    below = facts.forest.nodes.get(node.parent or "")
    return below is not None and below.hidden and len(facts.forest.children_of(below.uuid)) == 1


def strangers(facts: Facts) -> Iterator[Finding]:
    """Files that look like images and carry no name of ours."""
    for reference in facts.forest.references:
        if reference.said != STRANGER:
            continue
        if not reference.parent_known:
            text = f"a {reference.format} file that cannot be read, so it may depend on any image"
        elif reference.parent is not None:
            text = f"a {reference.format} image that depends on {reference.parent}"
        else:
            text = f"a {reference.format} image that is none of the SR's"
        command = f"mv {_beside(facts, reference.name)} ELSEWHERE"
        yield Finding("stranger", facts.sr.uuid, reference.name, text, command)


def _beside(facts: Facts, name: str) -> str:
    """The path of a file among the images, as far as there is any image to tell."""
    volumes = facts.scan.volumes.values() if facts.scan else ()
    folder = next((volume.path.parent for volume in volumes), None)
    return shlex.quote(name if folder is None else str(folder / name))


def leftovers(facts: Facts) -> Iterator[Finding]:
    """Temporary files of calls that were interrupted."""
    for name in facts.leftovers:
        yield Finding(
            "leftover-file",
            facts.sr.uuid,
            name,
            "an interrupted call left it; nothing refers to it",
            f"sm sr scan {facts.sr.uuid}",
            Scan(),
        )
