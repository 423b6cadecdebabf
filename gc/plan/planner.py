"""What the collector should do next, as values. Pure: trees and circumstances in, actions out.

Only a hidden image is ever deleted or merged into, because only a hidden image is seen by nobody
except through its children. A run of hidden images, each the only child of the one below, is merged
in one pass into the lowest of them, so that each byte is copied once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from sm.tree import Forest, Node
from sm.users import User


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove images that nobody needs any more, children before their parents."""

    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Coalesce:
    """Merge `images` (uppermost first) into `into`; what sat on the uppermost then sits on it.

    `through` names whose datapath has the images open, and must do it; None where we do.
    """

    images: tuple[str, ...]
    into: str
    through: User | None = None


@dataclass(frozen=True, slots=True)
class LeafCoalesce:
    """Merge `leaf` and the hidden `images` below it (uppermost first) into `into`.

    `into` then takes the place and name of the leaf. `through` names who uses the leaf meanwhile;
    None where nobody does.
    """

    leaf: str
    images: tuple[str, ...]
    into: str
    through: User | None = None


Merge = Coalesce | LeafCoalesce
Action = Delete | Merge


ACTION_NAMES = {Delete: "delete", Coalesce: "coalesce", LeafCoalesce: "leaf-coalesce"}
"""What each kind of action is called in results, logs, history and figures."""


def subject_of(action: Action) -> str:
    """The UUID of the one image that stands for an action where its failures are remembered."""
    return action.leaf if isinstance(action, LeafCoalesce) else action.images[0]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why an image that could be merged or deleted is not, now. `code` is stable."""

    image: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Situation:
    """What the images themselves do not say.

    `active`: UUID of each VDI that some host uses, and its users. `beside`: the formats of which
    images may be merged while others have them open. `no_leaf_coalesce`: UUID of each VDI that
    must keep its own image, and why. `held`: UUID of each image that unfinished work is about,
    and which work. `moving`: UUID of each image into which nothing can be merged beside readers,
    and why. `hosts`: the names of hosts by their references, for people.
    """

    active: Mapping[str, tuple[User, ...]] = field(default_factory=dict)
    beside: frozenset[str] = frozenset()
    no_leaf_coalesce: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    moving: Mapping[str, str] = field(default_factory=dict)
    collect: bool = True
    coalesce: bool = True
    leaf_coalesce: bool = True
    hosts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions in the order in which they should be taken, and what must wait."""

    actions: tuple[Action, ...]
    waiting: tuple[Waiting, ...]


def plan(forest: Forest, situation: Situation) -> Plan:
    """Decide. Deletions come first: they cost nothing and give space for the merges."""
    if not situation.collect:
        return Plan((), ())
    waiting: list[Waiting] = []
    garbage = _garbage(forest, situation, waiting)
    actions: list[Action] = []
    for root in forest.roots:
        doomed = [node.uuid for node in reversed(forest.subtree(root)) if node.uuid in garbage]
        if doomed:
            actions.append(Delete(tuple(doomed)))
    merges: list[tuple[int, Action]] = []
    for node in forest:
        stretch = _stretch(forest, garbage, node)
        if stretch is None:
            continue
        decided = _merge(forest, situation, garbage, stretch)
        if isinstance(decided, Waiting):
            waiting.append(decided)
        elif decided is not None:
            height = max(forest.depth(leaf.uuid) for leaf in forest.leaves_above(node.uuid))
            merges.append((-height, decided))
    merges.sort(key=lambda pair: pair[0])
    actions.extend(action for _, action in merges)
    return Plan(tuple(actions), tuple(waiting))


def _garbage(forest: Forest, situation: Situation, waiting: list[Waiting]) -> set[str]:
    """Hidden images all of whose children are garbage, in whole and undisturbed trees."""
    garbage: set[str] = set()
    for root in forest.roots:
        for node in reversed(forest.subtree(root)):
            children = forest.children_of(node.uuid)
            if not node.hidden or any(child not in garbage for child in children):
                continue
            blocked = _disturbed(forest, situation, node.uuid)
            if blocked is None:
                garbage.add(node.uuid)
            elif not children:
                waiting.append(blocked)
    return garbage


def _disturbed(forest: Forest, situation: Situation, uuid: str) -> Waiting | None:
    """Why nothing at all may be done to this image."""
    if uuid in situation.held:
        # Also when its parent is missing, which has the name of another image since a switch.
        return Waiting(uuid, "held", situation.held[uuid])
    blocked = forest.blocked(uuid)
    if blocked is not None:
        return Waiting(uuid, blocked.code, blocked.reason)
    if uuid in situation.active:
        return Waiting(uuid, "active", _said(situation, situation.active[uuid]))
    return None


def _live_children(forest: Forest, garbage: set[str], uuid: str) -> list[Node]:
    return [forest[child] for child in forest.children_of(uuid) if child not in garbage]


def _stretch(forest: Forest, garbage: set[str], bottom: Node) -> list[Node] | None:
    """The longest run of hidden only children upwards from `bottom`, if a run begins there.

    The first is the one to merge into; it may be alone, under a leaf that could take its place.
    """
    if not bottom.hidden or bottom.uuid in garbage:
        return None
    if len(_live_children(forest, garbage, bottom.uuid)) != 1:
        return None
    if bottom.parent is not None and bottom.parent in forest:
        below = forest[bottom.parent]
        if below.hidden and len(_live_children(forest, garbage, below.uuid)) == 1:
            return None  # the run begins further down
    run = [bottom]
    while True:
        children = _live_children(forest, garbage, run[-1].uuid)
        if len(children) != 1 or not children[0].hidden or children[0] in run:
            return run
        run.append(children[0])


def _merge(
    forest: Forest, situation: Situation, garbage: set[str], stretch: list[Node]
) -> Action | Waiting | None:
    """What to do with a run: all of it into the leaf above, or its upper part into its lowest."""
    bottom, upper = stretch[0], stretch[1:]
    above = _live_children(forest, garbage, stretch[-1].uuid)
    leaf = above[0] if len(above) == 1 else None
    if leaf is not None and _live_children(forest, garbage, leaf.uuid):
        leaf = None  # visible, but with children of its own
    if leaf is None and not upper:
        return None
    subject = upper[-1].uuid if upper else (leaf or bottom).uuid
    for node in stretch:
        disturbed = _disturbed(forest, situation, node.uuid)
        if disturbed:
            return Waiting(subject, disturbed.code, disturbed.reason)
    if not situation.coalesce:
        return Waiting(subject, "disabled", "coalesce=false is set on the SR")
    users = [
        user for node in forest.subtree(bottom.uuid) for user in situation.active.get(node.uuid, ())
    ]
    if users and bottom.uuid in situation.moving:
        return Waiting(subject, "moves-blocks", situation.moving[bottom.uuid])
    if users:
        return _under_users(situation, subject, stretch, leaf, users)
    upwards = tuple(node.uuid for node in reversed(upper))
    if leaf is not None:
        refused = _leaf_refused(situation, leaf, stretch)
        if refused is None:
            return LeafCoalesce(leaf.uuid, upwards, bottom.uuid)
        if not upper:
            return refused
    unfit = _unfit(subject, stretch)
    return unfit or Coalesce(upwards, bottom.uuid)


def _under_users(
    situation: Situation,
    subject: str,
    stretch: list[Node],
    leaf: Node | None,
    users: list[User],
) -> Action | Waiting:
    """What to do with a run below disks that are in use.

    All of it, and the leaf, where the leaf's writer is the only user. Else the upper part of the
    run goes into its lowest: we do it where the format lets us; if not, the one datapath that has
    the images open must, and it must be the only one: no other would notice.
    """
    bottom, upper = stretch[0], stretch[1:]
    if leaf is not None and [(user.vdi, user.writable) for user in users] == [(leaf.uuid, True)]:
        refused = _leaf_refused(situation, leaf, stretch)
        if refused is None:
            merged = tuple(node.uuid for node in reversed(upper))
            return LeafCoalesce(leaf.uuid, merged, bottom.uuid, through=users[0])
        if not upper:
            return refused
    if not upper:
        reason = (
            f"it is merged with the image below it once it is not active: {_said(situation, users)}"
        )
        return Waiting(subject, "active-leaf", reason)
    unfit = _unfit(subject, stretch)
    if unfit:
        return unfit
    upwards = tuple(node.uuid for node in reversed(upper))
    if bottom.format in situation.beside:
        return Coalesce(upwards, bottom.uuid)
    if len(users) > 1:
        reason = f"more than one datapath has it open: {_said(situation, users)}"
        return Waiting(subject, "several-users", reason)
    (user,) = users
    if not user.writable:
        return Waiting(
            subject, "read-only-user", f"it is open only to read: {_said(situation, users)}"
        )
    return Coalesce(upwards, bottom.uuid, through=user)


def _said(situation: Situation, users: Sequence[User]) -> str:
    return ", ".join(
        f"VDI {user.vdi} {'RW' if user.writable else 'RO'} on"
        f" {situation.hosts.get(user.host, user.host)}"
        for user in users
    )


def _leaf_refused(situation: Situation, leaf: Node, stretch: list[Node]) -> Waiting | None:
    if not situation.leaf_coalesce:
        return Waiting(leaf.uuid, "leaf-disabled", "leaf-coalesce=false is set on the SR")
    if leaf.uuid in situation.no_leaf_coalesce:
        return Waiting(leaf.uuid, "leaf-kept", situation.no_leaf_coalesce[leaf.uuid])
    if leaf.uuid in situation.held:
        return Waiting(leaf.uuid, "held", situation.held[leaf.uuid])
    return _unfit(leaf.uuid, [*stretch, leaf])


def _unfit(subject: str, run: list[Node]) -> Waiting | None:
    """Formats must agree; and no image may be smaller than the one below.

    Beyond the end of a smaller image the disk reads as zero; merged, the larger one would show.
    """
    for lower, upper in pairwise(run):
        if upper.format != lower.format:
            reason = f"{upper.uuid} is {upper.format}, {lower.uuid} below it is {lower.format}"
            return Waiting(subject, "mixed-formats", reason)
        if upper.virtual_size < lower.virtual_size:
            reason = f"{upper.uuid} is smaller than {lower.uuid} below it"
            return Waiting(subject, "smaller", reason)
    return None
