"""Merging hidden images into the one below them.

Nobody has the chain open, or its format lets us merge beside those who have: then we copy.
Otherwise the datapath that has it open copies; see `sm.gc.merges.online`. In the end every image
that sat on the merged ones sits on the target, and every datapath above has gone over to the new
chain.

States that a crash may leave, by the stage of the journal entry:

`copy`    The target holds part of the data of the images above it, which still cover it.
          Recovery mends the target and gives up; a later run repeats the copy.
`commit`  See `sm.gc.merges.online`.
`relink`  The target holds everything. Some children sit on it already, others still on the images
          that were merged; both read the same. Recovery goes on from here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress

from sm import catalogue, users
from sm.errors import RecordMissing, SmError
from sm.gc.copying.control import Control
from sm.gc.merges import merge, online
from sm.gc.merges.merge import Done, Postponed
from sm.gc.plan import beside
from sm.gc.plan.planner import Coalesce
from sm.hosts.calls import ask
from sm.journal import Entry
from sm.publish import bring_up_to_date
from sm.repository import Repository
from sm.tree import Forest

OPERATION = "coalesce"


def coalesce(
    repository: Repository, action: Coalesce, confirm: Callable[[], None], control: Control
) -> Done:
    """Carry out one merge. Takes the SR lock by itself, but not for the copy; see `merge.start`."""
    merged = _in_one_go(repository, action)
    work = merge.start(repository, OPERATION, merged[0], [*merged, action.into], confirm)
    cow = repository.formats.cow(work.target.format)
    try:
        if work.users:
            _require_beside(repository, merged[0], action.into, work.users)
        serving = [] if cow.merged_beside else users.served(repository, work.users)
    except BaseException:
        merge.release(repository, work.entry)  # nothing is copied yet, so nothing is to be mended
        raise
    if serving:
        entry = online.commit(repository, work, serving, control)
    else:
        copied = merge.copy(repository, work, control)
        entry = repository.journal.advance(work.entry, "relink", copied=copied)
    return finish(repository, entry)


def finish(repository: Repository, entry: Entry) -> Done:
    """From stage `relink` to the end; every step may be repeated.

    The header of an active leaf belongs to the process that serves it, which relinks it when it
    goes over to the new chain; without a process, to us. No host is asked with the SR lock held.
    """
    *merged, into = entry.data["images"]
    online.close_merged(repository, entry)
    with repository.locked(OPERATION):
        above = users.above(repository, repository.scan().forest, into)
        _relink(repository, merged, into, {user.vdi for user in above if user.writable})
        forest = repository.scan().forest
    served = set()
    for user in above:
        chain = forest.chain(user.vdi)
        repository.journal.observe(f"coalesce: refresh {user.vdi}")
        if users.refresh(repository, user, [node for node in chain if node.uuid not in merged]):
            served.add(user.vdi)
    with repository.locked(OPERATION):
        _relink(repository, merged, into, served)
        _require_relinked(repository, merged, into)
        freed = remove_images(repository, merged)
        merge.release(repository, entry)
    copied, through = entry.data["copied"], entry.data.get("vdi")
    return Done("coalesce", tuple(merged), into, None, copied, freed, through)


def recover(repository: Repository, entry: Entry) -> None:
    """Finish or give up an interrupted merge."""
    if entry.stage == online.STAGE:
        settled = online.settle(repository, entry)
        if settled is None:
            return
        entry = settled
    if entry.stage == "relink":
        finish(repository, entry)
        return
    merge.abandon(repository, entry)


def _require_beside(
    repository: Repository, top: str, into: str, using: Collection[users.User]
) -> None:
    """Raise `Postponed` where who came to use the images after the plan would see blocks move."""
    written = {user.vdi for user in using if user.writable}
    reason = beside.in_the_way(repository, repository.look(OPERATION).forest, top, into, written)
    if reason is not None:
        raise Postponed("moves-blocks", reason)


def _in_one_go(repository: Repository, action: Coalesce) -> tuple[str, ...]:
    """Which of the images are merged now: all, or the lowest where their datapath can only do that.

    The next plan then has the rest.
    """
    if action.through is None or len(action.images) == 1:
        return action.images
    answer = ask(repository, action.through.host, "look", vdi_uuid=action.through.vdi)
    alone = answer["served"] and not answer["commits_runs"]
    return action.images[-1:] if alone else action.images


def _relink(repository: Repository, merged: list[str], into: str, others: Collection[str]) -> None:
    """Set every image that sits on a merged one onto the target, but for `others`."""
    forest = repository.scan().forest
    target = repository.image(forest[into])
    for node in forest:
        if node.parent in merged and node.uuid not in merged and node.uuid not in others:
            repository.journal.observe(f"coalesce: relink {node.uuid}")
            cow = repository.formats.cow(node.format)
            with repository.store.writing(node.uuid, node.format):
                cow.set_parent(repository.image(node).path, target)


def _require_relinked(repository: Repository, merged: list[str], into: str) -> None:
    """See that nothing names a merged image, and bring the records of the children up to date."""
    forest = repository.scan().forest
    left = [node.uuid for node in forest if node.parent in merged and node.uuid not in merged]
    if left:
        raise SmError(f"{', '.join(left)} still name a merged image as parent; nothing deleted")
    records = repository.vdis()
    for child in forest.children_of(into):
        if child in records and child not in merged:
            bring_up_to_date(repository.pool, forest[child], records[child])


def _hanging(forest: Forest, uuids: Collection[str]) -> list[str]:
    """The garbage that hangs on some images."""
    return [
        node.uuid
        for node in forest
        if node.parent in uuids
        and node.uuid not in uuids
        and node.hidden
        and node.problem is None
        and not forest.children_of(node.uuid)
    ]


def remove_images(repository: Repository, uuids: list[str]) -> int:
    """Remove images that nothing else refers to, uppermost first, and forget their records.

    Returns the bytes given back. What is gone already is passed over. Raises `SmError`, with
    nothing removed, when an image or a disk that stays needs one that would go.

    The record goes first: a hidden image without one is garbage still, and a record without an
    image is that of a disk that may come back.
    """
    scan = repository.scan_all(repository.vdis())
    # What is hidden and carries nothing is garbage, whose own deletion has failed.
    uuids = [*_hanging(scan.forest, uuids), *uuids]
    for node in scan.forest:
        if node.parent in uuids and node.uuid not in uuids:
            raise SmError(f"image {node.uuid} still needs {node.parent}; nothing was deleted")
    for reference in scan.forest.references:
        if reference.parent in uuids:
            needs = f"{reference.name}, {reference.said}, still needs {reference.parent}"
            raise SmError(f"{needs}; nothing was deleted")
    freed, forgotten = 0, False
    for uuid in uuids:
        with suppress(RecordMissing):
            repository.pool.forget_vdi(repository.pool.vdi_by_uuid(uuid).ref)
            forgotten = True
        if uuid in scan.forest:
            repository.journal.observe(f"remove {uuid}")
            freed += scan.volumes[uuid].used
            repository.store.remove(uuid, scan.forest[uuid].format)
    if forgotten:
        catalogue.remember(repository)
    return freed
