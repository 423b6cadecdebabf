"""Merging a leaf while it is written, by a datapath that can mirror it into an image below."""

from __future__ import annotations

import time
from collections.abc import Callable

from sm.cowutil.errors import Cancelled
from sm.datapath.base import JobState
from sm.errors import SmError
from sm.gc.copying.control import Control
from sm.gc.leaf_in_use import switching
from sm.gc.leaf_in_use.convergence import Convergence, Mirroring, Speed
from sm.gc.merges import merge
from sm.gc.merges.merge import Done, Overtaken
from sm.gc.plan.planner import LeafCoalesce
from sm.hosts.calls import ask
from sm.journal import Entry
from sm.repository import Repository
from sm.users import User

FIRST_POLL_SECONDS = 0.02
LAST_POLL_SECONDS = 0.5
"""The time between looks at a mirror grows from one to the other."""

SILENT_SECONDS = 10.0
"""For how long a datapath may fail to tell how its mirror stands."""


def merge_mirrored(
    repository: Repository,
    action: LeafCoalesce,
    user: User,
    confirm: Callable[[], None],
    control: Control,
) -> Done:
    """Mirror until the rest can be copied in a pause, then switch; all images in one go.

    Raises `Postponed` when the disk is written too fast for that.
    """
    work, entry = switching.begin(repository, action, user, confirm)
    speed = Speed()
    try:
        claimed = {"into": action.into, "claim": work.claim.id}
        ask(repository, user.host, "mirror_start", vdi_uuid=user.vdi, **claimed)
        heard = merge.yielding(repository, work.claim, control)
        copied = _watch(repository, entry, speed, heard)
        entry = repository.journal.advance(entry, entry.stage, copied=copied)
    except (Cancelled, Overtaken, SmError):
        switching.settle(repository, entry)
        raise
    budget = speed.budget(repository.settings.pause_seconds)
    return switching.last_step(repository, entry, budget)


def _watch(repository: Repository, entry: Entry, speed: Speed, control: Control) -> int:
    """Wait until what is left is little enough; returns the bytes copied so far."""
    leaf, host = entry.key, entry.data["host"]
    seen = Mirroring(Convergence(leaf), speed, time.monotonic())
    wait, heard = FIRST_POLL_SECONDS, time.monotonic()
    while True:
        job = ask(repository, host, "mirror_look", vdi_uuid=leaf)
        state, done, left = job["state"], int(job["done"]), int(job["total"]) - int(job["done"])
        if state == JobState.FAILED:
            raise SmError(f"the datapath of {leaf} could not merge: {job['error']}")
        now = time.monotonic()
        silent = state == JobState.UNKNOWN and now - heard < SILENT_SECONDS
        if state not in (JobState.RUNNING, JobState.READY) and not silent:
            raise Overtaken(f"the mirror in the datapath of {leaf} was ended: {state}")
        control(done, done + left)
        # Before it has looked at the image it says that nothing is left.
        known = state == JobState.READY or done > 0
        if known and left <= speed.budget(repository.settings.pause_seconds):
            return done
        if known:
            seen.look(done, left, now)
        heard = heard if silent else now
        time.sleep(wait)
        wait = min(LAST_POLL_SECONDS, wait * 1.5)
