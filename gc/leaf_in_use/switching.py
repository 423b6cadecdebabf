"""The last step of merging the leaf of a disk in use, and what is left of it by a crash.

The step happens in one request to the host that serves the disk (`sm.hosts.leaf_switch`): users are
held, the rest is copied, the image below gets the leaf's name, and users go on with it. While they
are held nobody else is asked, and no longer than `pause_seconds`; what cannot be done by then is
given up. At every moment the leaf's name leads to all that the disk must read as.

States that a crash may leave, by the stage of the journal entry:

`copy`         Nothing was begun. Recovery withdraws.
`leaf-active`  The datapath may be copying, users may be held, and the switch may have taken place:
               then the name of the target is gone. Recovery has the host that serves the disk end
               what is under way, so that users go on. After a switch the work goes on at `switch`;
               else the target gets its hidden mark again, and the merge is given up. A host that
               does not answer may have done any of it: the entry stays, and holds the images.
`switch`       The target has the leaf's name. From here it is as for a disk at rest.
"""

from __future__ import annotations

from collections.abc import Callable

from sm import users
from sm.cowutil.errors import Cancelled
from sm.errors import SmError
from sm.gc.merges import leaf, merge
from sm.gc.merges.merge import Done, Overtaken, Postponed, Work
from sm.gc.plan.planner import LeafCoalesce
from sm.hosts.calls import ask
from sm.hosts.naming import STAGE
from sm.journal import Entry
from sm.repository import Repository
from sm.users import User

OPERATION = "active-leaf-coalesce"


class NotYet(Postponed):
    """The switch was tried and given up: `left` bytes were too many, or 0 when it took too long."""

    def __init__(self, reason: str, left: int) -> None:
        super().__init__("busy-leaf", reason)
        self.left = left


def begin(
    repository: Repository, action: LeafCoalesce, user: User, confirm: Callable[[], None]
) -> tuple[Work, Entry]:
    """Journal and claim the merge of a leaf that `user` writes; the entry is at `leaf-active`.

    Raises as `merge.start`, and `Overtaken` when somebody else uses an image of it by now.
    """
    images = [*action.images, action.into]
    work = merge.start(repository, OPERATION, action.leaf, images, confirm, written=True)
    if work.users != (user,):
        merge.release(repository, work.entry)
        raise Overtaken(f"others began or ceased to use VDI {action.leaf}")
    freed = repository.store.volume(action.leaf, work.target.format).used
    entry = repository.journal.advance(
        work.entry, STAGE, host=user.host, vdi=user.vdi, claim=work.claim.id, freed=freed
    )
    return work, entry


def last_step(repository: Repository, entry: Entry, budget: int) -> Done:
    """Have the last step done, and what comes after it.

    `budget`: guest bytes that may be copied in the pause where there is no mirror. Raises `NotYet`,
    with the merge given up and users going on with the old leaf.
    """
    try:
        entry = _switch(repository, entry, budget)
    except (Cancelled, Overtaken, SmError):
        settled = settle(repository, entry)
        if settled is None:
            raise
        entry = settled
    return _finish(repository, entry)


def _switch(repository: Repository, entry: Entry, budget: int) -> Entry:
    """Ask for the last step; returns the entry at stage `switch`."""
    forest = repository.look(OPERATION).forest
    merge.require_bare(forest, [entry.key, *entry.data["images"]])
    outcome = ask(
        repository,
        entry.data["host"],
        "leaf_switch",
        vdi_uuid=entry.key,
        into=entry.data["into"],
        claim=entry.data["claim"],
        seconds=str(repository.settings.pause_seconds),
        budget=str(budget),
    )
    if not outcome["switched"]:
        raise NotYet(f"VDI {entry.key}: {outcome['reason']}", int(outcome["left"]))
    return repository.journal.advance(
        entry,
        "switch",
        copied=int(entry.data.get("copied", 0)) + int(outcome["copied"]),
        freed=int(outcome["freed"]),
        pause_seconds=float(outcome["pause_seconds"]),
    )


def settle(repository: Repository, entry: Entry) -> Entry | None:
    """End an interrupted merge: the entry at stage `switch`, or None when it was given up.

    Raises, with the entry left as it is, when the host that serves the disk does not answer.
    """
    user = User(entry.data["vdi"], entry.data["host"], writable=True)
    served = False
    if user in users.of_disks(repository, {user.vdi}):
        served = bool(ask(repository, user.host, "leaf_settle", vdi_uuid=user.vdi)["served"])
    target = merge.target_of(repository, entry)
    cow = repository.formats.cow(target.format)
    with repository.locked(OPERATION):
        if repository.store.superseded(entry.key, target.format, entry.data["into"]):
            return repository.journal.advance(entry, "switch")
        if not served and merge.target_exists(repository, entry):
            with repository.store.writing(entry.data["into"], target.format):
                cow.set_hidden(target.path, True)
    if served and not cow.merged_beside:
        merge.release(repository, entry)  # the datapath has it open, and left it whole
    else:
        merge.abandon(repository, entry)
    return None


def _finish(repository: Repository, entry: Entry) -> Done:
    """From stage `switch` to the end."""
    with repository.locked(OPERATION):
        return leaf.finish(repository, entry)


def recover(repository: Repository, entry: Entry) -> None:
    """Finish or give up an interrupted merge."""
    if entry.stage == "copy":
        merge.release(repository, entry)
        return
    settled = settle(repository, entry) if entry.stage == STAGE else entry
    if settled is not None:
        _finish(repository, settled)
