"""Merging a leaf that is in use by making what is left of it small, and then by a short pause.

For datapaths that cannot mirror their leaf. In each round a new, empty leaf is put over the present
one, and what that held is merged downwards beside the guest, or by the datapath, as any hidden
image is. What the guest wrote meanwhile is in the new leaf: when that is little enough, users are
held while it is copied, and the image below takes the leaf's place.

Between the rounds nothing is under way. A crash leaves at most one more hidden image below the
leaf, which the next plan merges. After giving up the chain is no longer than before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sm import claims, snapshot
from sm.gc.copying.control import Control
from sm.gc.leaf_in_use import switching
from sm.gc.leaf_in_use.convergence import Convergence, Speed
from sm.gc.leaf_in_use.switching import NotYet
from sm.gc.merges import coalesce
from sm.gc.merges.merge import Done, Overtaken
from sm.gc.plan.planner import Coalesce, LeafCoalesce
from sm.repository import Repository
from sm.users import User

Confirm = Callable[[LeafCoalesce], None]
"""Raises `Overtaken` unless the action is still what should be done; the SR lock is held."""


def merge_paused(
    repository: Repository,
    action: LeafCoalesce,
    user: User,
    confirm: Confirm,
    control: Control,
) -> Done:
    """Merge a leaf by rounds and a pause.

    Raises `Postponed` when it does not get less, with nothing but the leaf above the target.
    """
    speed, convergence = Speed(), Convergence(action.leaf)
    pause, copied, merged = repository.settings.pause_seconds, 0, action.images
    while True:
        if action.images:
            copied += merge_below(repository, action, user, confirm, control, speed)
            action = replace(action, images=())
        left = _held(repository, action)
        if left <= speed.budget(pause):
            try:
                _, entry = switching.begin(repository, action, user, partial(confirm, action))
                done = switching.last_step(repository, entry, speed.budget(pause))
            except NotYet as error:
                left = max(left, error.left)
            else:
                images = (*merged, action.into)
                return replace(done, images=images, bytes_copied=copied + done.bytes_copied)
        convergence.note(left)
        action = replace(action, images=(_put_leaf_on_top(repository, action, confirm),))


def merge_below(
    repository: Repository,
    action: LeafCoalesce,
    user: User,
    confirm: Confirm,
    control: Control,
    speed: Speed,
) -> int:
    """Merge the hidden images of a run into its lowest, the leaf staying; returns bytes copied."""
    copied = 0
    target = repository.look("plan").forest[action.into]
    beside = repository.formats.cow(target.format).merged_beside
    while action.images:
        began = time.monotonic()
        inner = Coalesce(action.images, action.into, through=None if beside else user)
        done = coalesce.coalesce(repository, inner, partial(confirm, action), control)
        # A datapath may be done before it is asked a second time.
        speed.learn(done.bytes_copied, _seconds(done, control) or time.monotonic() - began)
        copied += done.bytes_copied
        left = tuple(uuid for uuid in action.images if uuid not in done.images)
        action = replace(action, images=left)
    return copied


def _seconds(done: Done, control: Control) -> float:
    """How long a copy took at the speed that was seen of it; 0 where none was."""
    return done.bytes_copied / control.speed if control.speed > 0 else 0.0


def _held(repository: Repository, action: LeafCoalesce) -> int:
    """How many bytes the leaf takes: its tables may lag behind what its guest has written.

    The size of a volume says nothing of that. Then its tables must do; what they lack is counted
    once the users are held, and if it is too much, they go on.
    """
    forest = repository.look("plan").forest
    if action.leaf not in forest:
        raise Overtaken(f"VDI {action.leaf} is gone")
    node = forest[action.leaf]
    cow = repository.formats.cow(node.format)
    if repository.store.sized and cow.merged_beside:
        return cow.allocated_size(repository.image(node).path)
    return repository.store.volume(node.uuid, node.format).used


def _put_leaf_on_top(repository: Repository, action: LeafCoalesce, confirm: Confirm) -> str:
    """Let the leaf's image become a hidden one below a new leaf; returns its UUID."""
    with (
        repository.locks.hold("vdi", action.leaf, switching.OPERATION),
        claims.changing(repository, action.leaf, switching.OPERATION),
        repository.locked(switching.OPERATION),
    ):
        confirm(action)
        return snapshot.displace(repository, action.leaf)
