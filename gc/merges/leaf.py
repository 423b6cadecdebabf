"""Merging a leaf, and the hidden images below it, into one image that takes the leaf's place.

Offline: no process serves the leaf; see `sm.gc.leaf_in_use` for the others. States that a crash may
leave, by the stage of the journal entry:

`copy`    The target holds part of what is above it, which still covers it. Given up by recovery.
`switch`  The target holds everything, and may already be visible or have the leaf's name. Recovery
          finishes if the leaf is still as it was when it was copied; if something was written to it
          since, the target is hidden again and the merge given up.

The switch is one rename: before it the leaf's name means the old chain, after it the merged image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

from sm import users
from sm.gc.copying.control import Control
from sm.gc.merges import merge
from sm.gc.merges.coalesce import remove_images
from sm.gc.merges.merge import Done, Overtaken
from sm.gc.plan.planner import LeafCoalesce
from sm.journal import Entry
from sm.publish import bring_up_to_date
from sm.repository import Repository

OPERATION = "leaf-coalesce"


def leaf_coalesce(
    repository: Repository, action: LeafCoalesce, confirm: Callable[[], None], control: Control
) -> Done:
    """Carry out one merge of a leaf. Takes the SR lock by itself, but not for the copy.

    Raises as `merge.start`, and `Overtaken` when the leaf is active, or changed while it was
    copied.
    """
    images = [*action.images, action.into]
    work = merge.start(repository, OPERATION, action.leaf, images, confirm)
    try:
        # A host key without a process was left by a crash, and stays without one now.
        serving = users.served(repository, work.users)
    except BaseException:
        merge.release(repository, work.entry)
        raise
    if serving:
        merge.release(repository, work.entry)
        raise Overtaken(f"VDI {action.leaf} is active")
    untouched = Untouched(repository, work.entry)
    work = replace(work, steps=replace(work.steps, giving=untouched.giving))
    copied = merge.copy(repository, work, control)
    with repository.locked(OPERATION):
        print_ = untouched.print
        if _changed(repository, work.entry, print_):
            merge.abandon(repository, work.entry)
            raise Overtaken(f"VDI {action.leaf} changed while it was copied")
        entry = repository.journal.advance(work.entry, "switch", copied=copied, fingerprint=print_)
        return finish(repository, entry)


def recover(repository: Repository, entry: Entry) -> None:
    """Finish or give up an interrupted merge."""
    if entry.stage == "copy":
        merge.abandon(repository, entry)
        return
    target = merge.target_of(repository, entry)
    with repository.locked(OPERATION):
        untouched = entry.data["fingerprint"]
        if merge.target_exists(repository, entry) and _changed(repository, entry, untouched):
            with repository.store.writing(entry.data["into"], target.format):
                repository.formats.cow(target.format).set_hidden(target.path, True)
            merge.abandon(repository, entry)
        else:
            finish(repository, entry)


class Untouched:
    """Sees that nobody writes to the leaf of an entry, but for our own giving back of its space."""

    def __init__(self, repository: Repository, entry: Entry) -> None:
        self._repository = repository
        self._entry = entry
        self.print: str = entry.data["fingerprint"]
        """The fingerprint of the leaf as we left it."""

    @contextmanager
    def giving(self) -> Iterator[None]:
        """Around our own changes; `Overtaken` when somebody else made one before."""
        if self._now() != self.print:
            raise Overtaken(f"VDI {self._entry.key} changed while it was copied")
        yield
        self.print = self._now()

    def _now(self) -> str:
        return self._repository.store.fingerprint(self._entry.key, self._entry.data["format"])


def _changed(repository: Repository, entry: Entry, untouched: str) -> bool:
    """Whether the leaf's fingerprint is not `untouched` any more, or the images hang otherwise."""
    run = [entry.key, *entry.data["images"]]
    forest = repository.scan().forest
    for upper, lower in pairwise(run):
        if forest.children_of(lower) != (upper,):
            return True
    print_ = repository.store.fingerprint(entry.key, entry.data["format"])
    return bool(forest.children_of(entry.key) or print_ != untouched)


def finish(repository: Repository, entry: Entry) -> Done:
    """From stage `switch` to the end, SR lock held; every step may be repeated.

    The target becomes visible before it gets the leaf's name: the other way round a crash between
    would leave a disk that looks like garbage.
    """
    leaf, image_format = entry.key, entry.data["format"]
    *merged, into = entry.data["images"]
    target = merge.target_of(repository, entry)
    freed = int(entry.data.get("freed", 0))
    if merge.target_exists(repository, entry):
        freed = repository.store.volume(leaf, image_format).used
        repository.journal.observe("leaf-coalesce: unhide")
        with repository.store.writing(into, image_format):
            repository.formats.cow(image_format).set_hidden(target.path, False)
        repository.journal.observe("leaf-coalesce: supersede")
        repository.store.supersede(leaf, image_format, into)
    freed += remove_images(repository, [*merged, into])
    forest = repository.scan().forest
    record = repository.vdis().get(leaf)
    if record is not None:
        bring_up_to_date(repository.pool, forest[leaf], record)
    merge.release(repository, entry)
    return Done(
        "leaf-coalesce",
        (*merged, into),
        leaf=leaf,
        bytes_copied=int(entry.data.get("copied", 0)),
        bytes_freed=freed,
        through=entry.data.get("vdi"),
        pause_seconds=float(entry.data.get("pause_seconds", 0.0)),
    )
