"""What a format cannot do to images while others read them, asked before work is planned.

A reader has the table of an image in memory. Where a larger table, or the name of another parent,
needs the place of blocks, these would move, and the reader would see what took their place.
"""

from __future__ import annotations

from collections.abc import Iterable

from sm.gc.plan.planner import Action, Delete, LeafCoalesce, Situation
from sm.repository import Repository
from sm.tree import Forest


def moving(
    repository: Repository, forest: Forest, actions: Iterable[Action], situation: Situation
) -> dict[str, str]:
    """Of work that is planned beside users: by the image that stays, why it must wait for them."""
    found = {}
    for action in actions:
        if isinstance(action, Delete):
            continue
        using = {node.uuid for node in forest.subtree(action.into)} & situation.active.keys()
        if using:
            written = {vdi for vdi in using if any(user.writable for user in situation.active[vdi])}
            top = action.leaf if isinstance(action, LeafCoalesce) else action.images[0]
            reason = in_the_way(repository, forest, top, action.into, written)
            if reason is not None:
                found[action.into] = reason
    return found


def in_the_way(
    repository: Repository, forest: Forest, top: str, into: str, written: Iterable[str]
) -> str | None:
    """Why `top` cannot be merged down into `into` beside readers; None where it can.

    `written`: the disks whose own processes write, which change their leaves' headers themselves.
    """
    goal = forest[into]
    cow = repository.formats.cow(goal.format)
    if not cow.merged_beside:
        return None
    size = forest[top].virtual_size
    path = repository.image(goal).path
    if size > goal.virtual_size and cow.moves_to_grow(path, size):
        return f"{into} has no room for the table of {size} bytes but in the place of its blocks"
    for child in forest.children_of(top):
        image = forest[child]
        if child in written or not repository.formats.cow(image.format).merged_beside:
            continue
        if repository.formats.cow(image.format).moves_to_relink(repository.image(image).path, path):
            return f"{child} has no room for the name of {into} but in the place of its blocks"
    return None
