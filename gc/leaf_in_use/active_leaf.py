"""Merging the leaf of a disk in use, and the hidden images below it: in which way, or why not now.

A datapath that can mirror its leaf copies all in one go (`mirroring.py`). With any other that can
be paused, what is left of the leaf is made small first (`shrinking.py`). Both end with the same
step (`switching.py`).
"""

from __future__ import annotations

from functools import partial

from sm.errors import SmError
from sm.gc.copying.control import Control
from sm.gc.leaf_in_use.convergence import Speed
from sm.gc.leaf_in_use.mirroring import merge_mirrored
from sm.gc.leaf_in_use.shrinking import Confirm, merge_below, merge_paused
from sm.gc.merges import leaf
from sm.gc.merges.merge import Done, Postponed
from sm.gc.plan.planner import LeafCoalesce
from sm.hosts.calls import ask
from sm.repository import Repository


def merge(repository: Repository, action: LeafCoalesce, confirm: Confirm, control: Control) -> Done:
    """Carry out one merge of a leaf in use. Takes the SR lock by itself, but not for the copy.

    Raises as `sm.gc.merges.merge.start`, and `Postponed` when it cannot be done as the disk is used
    now; what lies between the leaf and the target is merged then.
    """
    user = action.through
    if user is None:
        raise SmError(f"nobody uses VDI {action.leaf}")
    found = ask(repository, user.host, "look", vdi_uuid=user.vdi)
    if not found["served"]:
        return leaf.leaf_coalesce(repository, action, partial(confirm, action), control)
    way = found.get("leaf_merge", "")
    try:
        if way == "mirror":
            return merge_mirrored(repository, action, user, partial(confirm, action), control)
        if way == "pause":
            return merge_paused(repository, action, user, confirm, control)
        reason = (
            f"VDI {action.leaf} is served by {found.get('datapath')} in a way that has no pause"
        )
        raise Postponed("active-leaf", reason)
    except Postponed:
        if way != "pause" and action.images:
            merge_below(repository, action, user, confirm, control, Speed())
        raise
