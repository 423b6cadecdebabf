"""Merging hidden images that a datapath has open: the datapath copies, we decide from the disk.

The stage `commit` of the journal entry means that a process may be copying, or have finished. A
crash of anything may leave:

- the image above still names the uppermost merged image: the target is partly written at most, and
  covered by what is above it. The merge is given up, and can be begun again;
- the image above names the target: all data is there if the datapath says so. If no process is
  left to say so, the image above is made to name the merged image again, which still holds all
  that it held; the merge is then given up. Merged images are deleted after the entry has gone to
  the stage `relink` alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sm import coverage, users
from sm.cowutil.errors import Cancelled
from sm.datapath.base import JobState, OutcomeUnknown
from sm.errors import SmError
from sm.gc.copying.control import Control
from sm.gc.merges import merge
from sm.gc.merges.merge import Overtaken, Work
from sm.hosts.arguments import Answer
from sm.hosts.calls import ask
from sm.journal import Entry
from sm.repository import Repository
from sm.users import User

STAGE = "commit"
FIRST_POLL_SECONDS = 0.05
LAST_POLL_SECONDS = 0.5
"""The time between looks at a commit grows from one to the other."""


def commit(repository: Repository, work: Work, serving: Sequence[User], control: Control) -> Entry:
    """Have the datapath of the only user merge; returns the entry at stage `relink`.

    Raises `Overtaken` when there is another user, or the commit was ended by a user of the disk.
    """
    (user, *others) = serving
    if others or not user.writable:
        merge.release(repository, work.entry)
        raise Overtaken("the images are open in more than one datapath, or only to be read")
    entry = repository.journal.advance(work.entry, STAGE, host=user.host, vdi=user.vdi)
    merge.yielding(repository, work.claim, control)
    control.keeps_itself = True
    try:
        top, base = entry.key, entry.data["into"]
        limit = control.bytes_per_second
        wanted = {"vdi_uuid": user.vdi, "top": top, "base": base, **_rate(limit)}
        with _naming_the_base(repository, user, top):
            ask(repository, user.host, "commit_start", **wanted)
            _watch(repository, user, control, limit)
    except Cancelled:
        settle(repository, entry)
        raise
    except (Overtaken, SmError):
        # All may have been copied in the meantime, and then it is quicker to go on than to undo.
        settled = settle(repository, entry)
        if settled is None:
            raise
        return settled
    return _proved(repository, entry)


def settle(repository: Repository, entry: Entry) -> Entry | None:
    """End an interrupted commit: the entry at stage `relink`, or None when it was given up.

    Raises, with all left as it is, when what the datapath did cannot be known yet.
    """
    user = User(entry.data["vdi"], entry.data["host"], writable=True)
    answer: Answer = {"served": False, "state": "none"}
    if user in users.of_disks(repository, {user.vdi}):
        answer = ask(repository, user.host, "commit_stop", vdi_uuid=user.vdi)
    if answer["state"] == JobState.DONE:
        return _proved(repository, entry)
    _name_merged_again(repository, entry, served=answer["served"])
    if answer["served"]:
        merge.release(repository, entry)
    else:
        merge.abandon(repository, entry)
    return None


@contextmanager
def _naming_the_base(repository: Repository, user: User, top: str) -> Iterator[None]:
    """Let the image above `top` be written to for the block: it will name the base in its header.

    A crash leaves it so, which does no harm.
    """
    chain = repository.look(STAGE).forest.chain(user.vdi)
    above = chain[[node.uuid for node in chain].index(top) - 1]
    with repository.store.writing(above.uuid, above.format):
        yield


def close_merged(repository: Repository, entry: Entry) -> None:
    """Have the datapath take note of the end of its commit, and close the merged images."""
    if "host" not in entry.data:
        return
    user = User(entry.data["vdi"], entry.data["host"], writable=True)
    if user in users.of_disks(repository, {user.vdi}):
        ask(repository, user.host, "commit_finish", vdi_uuid=user.vdi)


def _rate(limit: int | None) -> dict[str, str]:
    """A limit on bytes per second as a host is told of it; nothing where there is none."""
    return {} if limit is None else {"rate": str(limit)}


def _watch(repository: Repository, user: User, control: Control, limit: int | None) -> None:
    """Wait for the end of a commit; returns when the data is in the base.

    `limit` is the one that it began with; a host is told when another holds.
    """
    pause = FIRST_POLL_SECONDS
    while True:
        wanted = control.bytes_per_second
        said = {} if wanted == limit else _rate(wanted or 0)
        job = ask(repository, user.host, "commit_look", vdi_uuid=user.vdi, **said)
        limit = wanted
        state = job["state"]
        if state == JobState.DONE:
            return
        if state == JobState.FAILED:
            raise SmError(f"the datapath of {user.vdi} could not merge: {job['error']}")
        if state != JobState.RUNNING:
            raise Overtaken(f"the commit in the datapath of {user.vdi} was ended: {state}")
        control(job["done"], job["total"])
        time.sleep(pause)
        pause = min(LAST_POLL_SECONDS, pause * 1.5)


def _proved(repository: Repository, entry: Entry) -> Entry:
    """Check the tables of a finished commit, then let the journal say that the data is there."""
    run = [entry.key, *(uuid for uuid in entry.data["images"] if uuid != entry.key)]
    forest = repository.look(STAGE).forest
    chain = repository.images([forest[uuid] for uuid in run])
    held = coverage.held_by(repository.formats, chain[:-1])
    coverage.prove(repository.formats, chain[-1], held)
    return repository.journal.advance(entry, "relink", copied=held.total)


def _name_merged_again(repository: Repository, entry: Entry, *, served: bool) -> None:
    """Undo the relink of a commit whose end nobody vouches for."""
    top, into = entry.key, entry.data["into"]
    merged = {top, *entry.data["images"]} - {into}
    with repository.locked(STAGE):
        forest = repository.scan().forest
        for child in forest.children_of(into):
            if child in merged:
                continue
            if served:
                raise OutcomeUnknown(f"{child} names {into}, but its datapath knows of no commit")
            cow = repository.formats.cow(forest[child].format)
            repository.journal.observe(f"online: rebase {child}")
            with repository.store.writing(child, cow.name):
                cow.set_parent(repository.image(forest[child]).path, repository.image(forest[top]))
