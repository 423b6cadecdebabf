"""Snapshot and clone: the leaf's image becomes a hidden base with two new, empty children.

The leaf keeps its UUID and name; what it held moves below it. In order, each step safe to stop
after (`recover` finishes or undoes it, with the SR lock held):

1. the journal entry;
2. the base: a second name of the leaf's image, until a new child replaces it under the first.
   Stopped before that: the second name is taken away, nothing has changed. Whoever serves an
   active leaf then goes over to the new child, which ends writing to the base; from there on the
   work is only ever finished, because what the guest writes is in the child;
3. the copy: its record, then its image under its final name.
   Stopped before that: the record is forgotten, and the base takes the place of the leaf again;
   if something was written to the leaf meanwhile, it stays over its base and reads as before;
4. the base is marked hidden, last of all, so that no live data is ever taken for garbage; whoever
   serves the leaf opens it anew, or would one day write back a header without the mark;
5. the base's record, and the entry's end.

A leaf that holds nothing over its parent needs no base: its copy is one more child of that parent.

`displace` is the same without the copy: a new, empty leaf, so that what the old one held can be
merged downwards while the disk is in use.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sm import activation, catalogue, claims, keys, snapshot_space, users
from sm.cowutil.base import CowUtil, ImageRef
from sm.errors import (
    Busy,
    RecordMissing,
    SmError,
    SnapshotChainTooLong,
    Unimplemented,
    VdiUnavailable,
)
from sm.journal import Entry
from sm.pool.base import NULL_REF, NewVdi, VdiRecord
from sm.publish import publish
from sm.records import BASE_COPY_NAME, sm_config_of
from sm.repository import Repository
from sm.scan import Scan
from sm.tree import Node
from sm.volumes.base import Room
from sm.witness.openers import require_unwritten

log = logging.getLogger(__name__)

OPERATION = "snapshot"


class Claimed(Busy):
    """A merge has claimed the images since merges were asked to give way; they can be again."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What the new VDI is to be: a snapshot taken at `time` (ISO 8601), or a writable clone."""

    is_a_snapshot: bool
    time: str = ""
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a copy would cost now, in bytes, and how long the chain of the disk would then be.

    The bytes are those of its new images: empty ones as their format lays them out, to within
    64 KiB each, and where volumes have a size, what they are given to be written to.
    """

    bytes_needed: int
    depth: int
    limit: int


def make_way(repository: Repository, source_uuid: str) -> None:
    """Have merges give way to a copy of the disk: of its leaf, or of the chain that is served."""

    def images() -> set[str]:
        active = bool(users.of_disks(repository, {source_uuid}))
        return activation.chain_of(repository, source_uuid)() if active else {source_uuid}

    activation.make_way(repository, images, f"a copy of {source_uuid}")


def copy_vdi(repository: Repository, source_uuid: str, copy: Copy) -> str:
    """Make a VDI with the content that `source_uuid` has now; returns its UUID.

    The locks of the SR and of the disk are held. Raises `Claimed` while its chain is being merged.
    """
    scan = repository.scan()
    record = repository.vdi(source_uuid)
    active = users.of_disks(repository, {source_uuid})
    node, cow = _source(repository, scan, record)
    _require_unclaimed(
        repository, source_uuid, scan.forest.chain(source_uuid) if active else [node]
    )
    repository.require_free(source_uuid)
    wanted = _record(record, node, copy)
    # Each host answers, or nothing is begun.
    if not users.served(repository, active):
        require_unwritten(repository.image(node).path)
    plan = _plan(repository, scan, cow, node, copy, active)
    if plan.base is None:
        _fork(repository, cow, node, wanted, plan.room)
    else:
        _add_child(repository, cow, plan.base, node, wanted)
    catalogue.remember(repository)
    return wanted.uuid


def preview(repository: Repository, source_uuid: str, copy: Copy) -> Preview:
    """What `copy_vdi` would do, and refused as that would be; changes nothing.

    Merges of the chain are passed over, because they give way to a copy.
    """
    scan, record = repository.look("preview"), repository.vdi(source_uuid)
    node, cow = _source(repository, scan, record)
    active = users.of_disks(repository, {source_uuid})
    users.served(repository, active)
    plan = _plan(repository, scan, cow, node, copy, active)
    depth = scan.forest.depth(source_uuid) + (plan.base is None)
    return Preview(plan.cost, depth, cow.max_chain_length)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the copy is added to: `base`, or where that is None the source's image, displaced.

    `room`: what the source's new leaf is given then; `cost`: bytes of all new images.
    """

    base: Node | None
    room: Room
    cost: int


def _plan(
    repository: Repository,
    scan: Scan,
    cow: CowUtil,
    node: Node,
    copy: Copy,
    active: Sequence[users.User],
) -> _Plan:
    """How to copy an image; raises `SrNoSpace` where it cannot be finished."""
    base = _shared_base(repository, scan, cow, node, active)
    room = snapshot_space.leaf_room(repository, node, active)
    rooms = [repository.room(node.format, node.virtual_size, written=not copy.is_a_snapshot)]
    if base is None:
        rooms.append(room)
    return _Plan(base, room, snapshot_space.require(repository, cow, node.virtual_size, rooms))


def _shared_base(
    repository: Repository, scan: Scan, cow: CowUtil, node: Node, active: Sequence[users.User]
) -> Node | None:
    """The parent, if the copy can be one more child of it, because the source holds nothing.

    Of an open leaf the tables on the storage may lag behind what its guest has written.
    """
    parent = scan.forest.nodes.get(node.parent or "")
    if parent is None or active or cow.allocated_size(repository.image(node).path):
        return None
    return parent


def _source(repository: Repository, scan: Scan, record: VdiRecord) -> tuple[Node, CowUtil]:
    """The image to copy, which is sound, and of a format and in a chain that allow one more."""
    uuid_ = record.uuid
    if uuid_ not in scan.forest:
        raise VdiUnavailable(f"{uuid_}: its image is missing")
    node = scan.forest[uuid_]
    damage = scan.forest.chain_defect(uuid_)
    if node.hidden or damage:
        raise VdiUnavailable(f"{uuid_}: {damage[1] if damage else 'it is hidden'}")
    image_format = repository.formats.get(node.format)
    if not isinstance(image_format, CowUtil):
        raise Unimplemented(f"a {node.format} disk has no snapshots; use a copy-on-write format")
    depth = scan.forest.depth(uuid_)
    if depth >= image_format.max_chain_length:
        raise SnapshotChainTooLong(
            f"{uuid_} has a chain of {depth} images, the limit is {image_format.max_chain_length}"
        )
    return node, image_format


def _require_unclaimed(repository: Repository, uuid_: str, nodes: Iterable[Node]) -> None:
    """Raise `Claimed` while a merge has one of a disk's images."""
    wanted = {node.uuid for node in nodes}
    for claim in claims.standing(repository):
        if claim.key.startswith(keys.CLAIM_PREFIX) and claim.images & wanted:
            raise Claimed(f"VDI {uuid_}: {claim.owner} is at work on its chain")


def _record(source: VdiRecord, node: Node, copy: Copy) -> NewVdi:
    """The record of the copy: the source's, without the marks of its use."""
    return NewVdi(
        uuid=copy.uuid or str(uuid.uuid4()),
        sr=source.sr,
        name_label=source.name_label,
        name_description=source.name_description,
        type=source.type,
        virtual_size=node.virtual_size,
        sm_config={},
        is_a_snapshot=copy.is_a_snapshot,
        snapshot_of=source.ref if copy.is_a_snapshot else NULL_REF,
        snapshot_time=copy.time,
    )


def _add_child(
    repository: Repository, cow: CowUtil, parent: Node, source: Node, wanted: NewVdi
) -> None:
    """Add an image over `parent` that reads as the empty `source` does, and its record."""
    child = replace(source, uuid=wanted.uuid, parent=parent.uuid)
    below = repository.image(parent)
    publish(
        repository,
        child,
        wanted,
        lambda path: cow.snapshot(path, below, source.virtual_size),
    )


def displace(repository: Repository, leaf_uuid: str) -> str:
    """Put a new, empty leaf over the image of a disk in use; returns the UUID that the image has.

    The locks of the SR and of the disk are held. Raises `Claimed` while its chain is being merged.
    """
    scan = repository.scan()
    leaf, cow = _source(repository, scan, repository.vdi(leaf_uuid))
    _require_unclaimed(repository, leaf_uuid, scan.forest.chain(leaf_uuid))
    repository.require_free(leaf_uuid)
    room = snapshot_space.leaf_room(repository, leaf, users.of_disks(repository, {leaf_uuid}))
    snapshot_space.require(repository, cow, leaf.virtual_size, [room])
    base = replace(leaf, uuid=str(uuid.uuid4()))
    entry = _open_entry(repository, leaf, base, None)
    try:
        served = _displace(repository, cow, leaf, base, room)
        entry = repository.journal.advance(entry, "hide")
    except BaseException:
        _finish(repository, entry)
        raise
    _finish(repository, entry, served)
    catalogue.remember(repository)
    return base.uuid


def _open_entry(repository: Repository, leaf: Node, base: Node, copy: str | None) -> Entry:
    return repository.journal.open(
        OPERATION,
        leaf.uuid,
        "displace",
        format=leaf.format,
        base=base.uuid,
        copy=copy,
        images=[base.uuid] if copy is None else [base.uuid, copy],
    )


def _displace(repository: Repository, cow: CowUtil, leaf: Node, base: Node, room: Room) -> bool:
    """Give the leaf's image to `base`, under a new leaf; whether that is served by anybody."""
    # The base gets its name in the middle of this.
    below = ImageRef(repository.store.path(base.uuid, base.format), base.format)
    repository.store.displace(
        leaf.uuid,
        leaf.format,
        base.uuid,
        lambda path: cow.snapshot(path, below, leaf.virtual_size),
        room,
    )
    return _follow(repository, leaf.uuid)


def _fork(repository: Repository, cow: CowUtil, leaf: Node, wanted: NewVdi, room: Room) -> None:
    base = replace(leaf, uuid=str(uuid.uuid4()))
    entry = _open_entry(repository, leaf, base, wanted.uuid)
    try:
        served = _displace(repository, cow, leaf, base, room)
        entry = repository.journal.advance(entry, "copy")
        _add_child(repository, cow, base, leaf, wanted)
        entry = repository.journal.advance(entry, "hide")
        _finish(repository, entry, served)
    except Exception as error:
        # If the copy is there in the end, the command has done what it was asked for.
        if not _finish(repository, entry):
            raise
        log.warning("the copy of %s was completed after an error: %s", leaf.uuid, error)
    except BaseException:
        _finish(repository, entry)
        raise


def recover(repository: Repository) -> None:
    """Finish or undo every interrupted copy. SR lock held, so whoever wrote an entry has ended.

    One whose disk is served by a host that does not answer is left as it is, and held.
    """
    for entry in repository.journal.entries():
        if entry.operation == OPERATION:
            repository.store.remove_unfinished()
            try:
                _finish(repository, entry)
                catalogue.remember(repository)
            except SmError as error:
                log.warning("the copy of %s cannot be finished yet: %s", entry.key, error)


def _finish(repository: Repository, entry: Entry, served: bool | None = None) -> bool:
    """Bring an entry to its end from wherever it stopped; returns whether there is a copy.

    `served`: whether somebody serves the leaf and uses its present chain; None where not known.
    """
    leaf, image_format = entry.key, entry.data["format"]
    base, copy = entry.data["base"], entry.data["copy"]
    copied = copy is not None and repository.store.exists(copy, image_format)
    if repository.store.displaced(leaf, image_format, base):
        cow = repository.formats.cow(image_format)
        if served is None:
            served = _follow(repository, leaf)
        if copy is not None and not copied:
            _forget(repository, copy)
        unwritten = not served and _is_empty(repository, cow, leaf)
        if not copied and unwritten:
            repository.store.supersede(leaf, image_format, base)
        else:
            repository.journal.observe("snapshot: set hidden")
            with repository.store.writing(base, image_format):
                cow.set_hidden(repository.path(base, image_format), True)
            if served:
                _follow(repository, leaf)
            # Whoever served the leaf has closed the base, which is complete and only read now.
            repository.store.trim(base, image_format)
            _record_base(repository, leaf, base)
    else:
        repository.store.undo_displace(leaf, image_format, base)
    repository.journal.close(entry)
    return copied


def _is_empty(repository: Repository, cow: CowUtil, leaf: str) -> bool:
    return cow.allocated_size(repository.path(leaf, cow.name)) == 0


def _follow(repository: Repository, leaf: str) -> bool:
    """Have whoever serves the leaf use its present chain; whether anybody does."""
    active = users.of_disks(repository, {leaf})
    if not active:
        return False
    chain = repository.scan().forest.chain(leaf)
    repository.journal.observe("snapshot: follow")
    served = False
    for user in active:
        served |= users.refresh(repository, user, chain)
    return served


def _forget(repository: Repository, uuid_: str) -> None:
    try:
        record = repository.pool.vdi_by_uuid(uuid_)
    except RecordMissing:
        return
    repository.pool.forget_vdi(record.ref)


def _record_base(repository: Repository, leaf: str, base: str) -> None:
    """Tell the pool of the base, and that the leaf now sits on it."""
    forest = repository.scan().forest
    node = forest[base]
    known = repository.vdis()
    if base not in known:
        volume = repository.store.volume(base, node.format)
        repository.pool.introduce_vdi(
            NewVdi(
                uuid=base,
                sr=repository.record.ref,
                name_label=BASE_COPY_NAME,
                virtual_size=node.virtual_size,
                physical_utilisation=volume.used,
                managed=False,
                read_only=True,
                sm_config=sm_config_of(node),
            )
        )
    if leaf in known:
        repository.pool.remove_from_vdi_sm_config(known[leaf].ref, keys.PARENT)
        repository.pool.add_to_vdi_sm_config(known[leaf].ref, keys.PARENT, base)
        used = repository.store.volume(leaf, node.format).used
        repository.pool.update_vdi(known[leaf].ref, physical_utilisation=used)
