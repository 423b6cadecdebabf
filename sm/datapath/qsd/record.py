"""What is noted of a daemon besides what every datapath notes: its nodes, and what it shall do.

In `Note.extra`: the numbers of the `nodes`, uppermost first; `leaf`, what the uppermost image is,
whatever it is called by now; `commit`, the numbers of the nodes `top` and `base`, and once its end
was seen, `end`, a `JobState`; `mirror`, the number of the node that the leaf is being copied into;
`frozen`, when a pause is complete; `held`, of a pause, when users waited for room before it began;
`over`, of such a pause, when it is only to go over to another chain.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sm.cowutil.base import ImageRef
from sm.datapath.qsd.commit import Merge
from sm.datapath.qsd.graph import Node, number
from sm.datapath.state import Note
from sm.errors import VdiMissing

LEAF = "leaf"
NODES = "nodes"
COMMIT = "commit"
END = "end"
MIRROR = "mirror"
FROZEN = "frozen"
HELD = "held"
OVER = "over"


def first_extra(chain: Sequence[ImageRef]) -> dict[str, Any]:
    """Of a chain that is about to be opened."""
    numbers = [node.number for node in number(chain, 0)]
    return {NODES: numbers, LEAF: identity(chain[0].path)}


def nodes_of(note: Note) -> tuple[Node, ...]:
    """The nodes of the noted chain."""
    return tuple(Node(n, image) for n, image in zip(note.extra[NODES], note.chain, strict=True))


def with_nodes(note: Note, own: Sequence[Node], commit: dict[str, Any] | None = None) -> Note:
    """What a daemon that is not paused has open, and the commit that it has been given."""
    numbers = [node.number for node in own]
    same_leaf = note.extra[NODES][0] == numbers[0]
    leaf = note.extra[LEAF] if same_leaf else identity(own[0].image.path)
    return _with(note, own, {NODES: numbers, LEAF: leaf}, commit)


def resumed(note: Note, own: Sequence[Node]) -> Note:
    """After a pause, in which the leaf may have become another."""
    extra = {NODES: [node.number for node in own], LEAF: identity(own[0].image.path)}
    return _with(replace(note, paused=False), own, extra, None)


def pausing(note: Note, *, complete: bool, held: bool = False) -> Note:
    """In a pause: whether it is known that no image is open. `held`: users waited before it."""
    if held:
        note = replace(note, extra=note.extra | {HELD: True})
    dropped = {FROZEN, MIRROR} if complete else {FROZEN}
    extra = {name: each for name, each in note.extra.items() if name not in dropped}
    return replace(note, paused=True, extra=extra | ({FROZEN: True} if complete else {}))


def going_over(note: Note) -> Note:
    """In the pause in which a disk whose users wait for room goes over to another chain."""
    note = pausing(note, complete=False, held=True)
    return replace(note, extra=note.extra | {OVER: True})


def mirroring(note: Note, base: int | None) -> Note:
    """With a mirror into a node, or with none."""
    extra = {name: each for name, each in note.extra.items() if name != MIRROR}
    return replace(note, extra=extra if base is None else extra | {MIRROR: base})


def merge_of(note: Note) -> Merge:
    """What the noted commit is about; `VdiMissing` when there is none."""
    if COMMIT not in note.extra:
        raise VdiMissing(f"{note.disk.vdi} has no commit")
    places = note.extra[COMMIT]
    return Merge.find(nodes_of(note), places["top"], places["base"])


def identity(path: Path) -> list[int] | None:
    """None where there is no file; of a block device that of the device, which has many names."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return [0, status.st_rdev] if stat.S_ISBLK(status.st_mode) else [status.st_dev, status.st_ino]


def _with(
    note: Note, own: Sequence[Node], extra: dict[str, Any], commit: dict[str, Any] | None
) -> Note:
    extra |= {COMMIT: commit} if commit is not None else {}
    return replace(note, chain=tuple(node.image for node in own), extra=extra)
