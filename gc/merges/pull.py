"""Copying hidden images up into the image above them, where that moves less than merging down.

Nobody has the images open. States that a crash may leave, by the stage of the journal entry:

`copy`    The image above holds part of what is below it, and shows what it showed. Given up.
`relink`  It holds everything, and names the images below it or already what is below them; both
          read the same. Recovery goes on from here.
"""

from __future__ import annotations

from collections.abc import Callable

from sm.errors import SmError
from sm.gc.copying.control import Control
from sm.gc.merges import merge
from sm.gc.merges.coalesce import remove_images
from sm.gc.merges.merge import Done, Overtaken
from sm.gc.plan.costs import Pull
from sm.journal import Entry
from sm.publish import bring_up_to_date
from sm.repository import Repository

OPERATION = "pull"


def pull(
    repository: Repository, action: Pull, confirm: Callable[[], None], control: Control
) -> Done:
    """Carry it out. Takes the SR lock by itself, but not for the copy; raises as `merge.start`."""
    work = merge.start(repository, OPERATION, action.into, action.images, confirm, upwards=True)
    if work.users:
        merge.release(repository, work.entry)
        raise Overtaken(f"a disk above {action.into} is active")
    copied = merge.copy(repository, work, control)
    return _finish(repository, repository.journal.advance(work.entry, "relink", copied=copied))


def recover(repository: Repository, entry: Entry) -> None:
    """Finish or give up interrupted work."""
    if entry.stage == "relink":
        _finish(repository, entry)
    else:
        merge.abandon(repository, entry)


def _finish(repository: Repository, entry: Entry) -> Done:
    """From stage `relink` to the end; every step may be repeated."""
    above, images, below = entry.key, entry.data["images"], entry.data["below"]
    with repository.locked(OPERATION):
        forest = repository.scan().forest
        repository.journal.observe(f"pull: relink {above}")
        cow = repository.formats.cow(entry.data["format"])
        leaf = above if not forest[above].hidden else None
        parent = None if below is None else repository.image(forest[below])
        with repository.store.writing(above, cow.name):
            cow.set_parent(repository.image(forest[above]).path, parent)
        forest = repository.scan().forest
        if forest[above].parent != below:
            raise SmError(f"{above} does not name {below} as its parent; nothing was deleted")
        freed = remove_images(repository, images)
        record = repository.vdis().get(above)
        if record is not None:
            bring_up_to_date(repository.pool, forest[above], record)
        merge.release(repository, entry)
    # For whoever reads it this is a merge like any other.
    name, into = ("coalesce", above) if leaf is None else ("leaf-coalesce", None)
    return Done(name, tuple(images), into, leaf, int(entry.data["copied"]), freed)
