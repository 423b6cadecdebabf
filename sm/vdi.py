"""What can be done to a VDI, on any SR. Each function is called with the SR lock held.

A refused or failed call leaves no trace: a new image gets its name only after its record is there,
so after a crash there may be a record without an image, which the next scan forgets.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sm import catalogue, keys
from sm.cowutil.base import CowUtil
from sm.cowutil.registry import Formats
from sm.errors import (
    InvalidArgument,
    RecordMissing,
    SrNoSpace,
    VdiDelete,
    VdiExists,
    VdiInUse,
    VdiMissing,
    VdiSize,
    VdiType,
    VdiUnavailable,
)
from sm.owner import Owner
from sm.pool.base import NULL_REF, NewVdi, VdiRecord
from sm.publish import bring_up_to_date, publish
from sm.repository import Repository
from sm.tree import Forest, Node
from sm.uuids import require_uuid
from sm.volumes.base import Room
from sm.witness.openers import require_unwritten

EMPTY_IMAGE_BYTES = 1 << 20
"""More than an empty image of any format takes on any file system."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A VDI to be made: `size` in bytes; `sm_config` may name the format."""

    size: int
    name_label: str = ""
    name_description: str = ""
    type: str = "user"
    uuid: str | None = None
    sm_config: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = False
    is_a_snapshot: bool = False
    snapshot_of: str = NULL_REF
    snapshot_time: str = ""
    metadata_of_pool: str = NULL_REF


def choose_format(
    formats: Formats, hints: Mapping[str, str], preferred: Sequence[str], size: int
) -> str:
    """The image format for a new VDI: as the caller says, else the first that can hold `size`.

    Raises `VdiType` for an unknown format, `VdiSize` when none can hold it.
    """
    named = hints.get(keys.IMAGE_FORMAT) or hints.get(keys.FORMAT_HINT)
    if named:
        if named not in formats.names:
            raise VdiType(f"the image format {named!r} is unknown; use {', '.join(formats.names)}")
        limits = formats.get(named).limits
        if size > limits.maximum:
            raise VdiSize(f"{size} bytes are more than a {named} image can hold, {limits.maximum}")
        return named
    known = [name for name in preferred if name in formats.names] or list(formats.names)
    for name in known:
        if size <= formats.get(name).limits.maximum:
            return name
    raise VdiSize(f"{size} bytes are more than any of {', '.join(known)} can hold")


def round_size(formats: Formats, image_format: str, size: int) -> int:
    """`size` rounded up to what the format can have; raises `VdiSize`."""
    limits = formats.get(image_format).limits
    if size <= 0:
        raise VdiSize(f"the size must be more than {size} bytes")
    rounded = -(-max(size, limits.minimum) // limits.granularity) * limits.granularity
    if rounded > limits.maximum:
        raise VdiSize(f"{size} bytes are more than a {image_format} image can hold")
    return rounded


def create(repository: Repository, wanted: Wanted, preferred: Sequence[str]) -> str:
    """Make an empty VDI; returns its UUID."""
    formats = repository.formats
    name = choose_format(formats, wanted.sm_config, preferred, wanted.size)
    image_format = formats.get(name)
    size = round_size(formats, name, wanted.size)
    free = repository.store.space().free
    if free < EMPTY_IMAGE_BYTES:
        raise SrNoSpace(f"{free} bytes are free, {EMPTY_IMAGE_BYTES} are needed")
    new_uuid = wanted.uuid or str(uuid.uuid4())
    require_uuid(new_uuid)
    for other in formats.names:
        if repository.store.exists(new_uuid, other):
            raise VdiExists(f"{new_uuid} exists as a {other} image")
    node = Node(new_uuid, name, virtual_size=size)
    record = NewVdi(
        uuid=new_uuid,
        sr=repository.record.ref,
        name_label=wanted.name_label,
        name_description=wanted.name_description,
        type=wanted.type,
        read_only=wanted.read_only,
        virtual_size=size,
        sm_config={**keys.without_marks(wanted.sm_config), **_filling(wanted)},
        is_a_snapshot=wanted.is_a_snapshot,
        snapshot_of=_reference(repository, wanted.snapshot_of),
        snapshot_time=wanted.snapshot_time,
        metadata_of_pool=wanted.metadata_of_pool or NULL_REF,
    )
    publish(repository, node, record, lambda path: image_format.create(path, size))
    return new_uuid


def _filling(wanted: Wanted) -> dict[str, str]:
    """The mark of a snapshot that somebody is about to fill, as a migration does."""
    return {keys.FILLING: "yes"} if wanted.is_a_snapshot else {}


def _reference(repository: Repository, given: str) -> str:
    """A VDI reference from what XAPI may send: nothing, a reference, or a UUID."""
    if not given or given.startswith("OpaqueRef:"):
        return given or NULL_REF
    try:
        return repository.pool.vdi_by_uuid(given).ref
    except RecordMissing:
        return NULL_REF


def delete(repository: Repository, vdi_uuid: str) -> None:
    """Make a VDI garbage and forget its record; the collector gives back the space.

    A copy-on-write image is only marked, because the collector alone can prove that nothing needs
    it. An image that is gone already is no error, unless other disks are away that need it. Stopped
    after the mark, the record of a hidden image without children is left, which the next scan
    forgets.
    """
    records = repository.vdis()
    record = records.get(vdi_uuid)
    if record is not None:
        users = repository.active_hosts(record)
        if users:
            raise VdiInUse(f"{vdi_uuid} is active on {', '.join(users)}")
    forest = repository.scan_all(records).forest
    if vdi_uuid in forest:
        node = forest[vdi_uuid]
        repository.require_free(vdi_uuid)
        _require_unneeded(forest, vdi_uuid)
        children = forest.children_of(vdi_uuid)
        if children:
            raise VdiDelete(f"{vdi_uuid} has children: {', '.join(children)}")
        if node.problem:
            raise VdiDelete(f"{vdi_uuid} is damaged: {node.problem}")
        image_format = repository.formats.get(node.format)
        require_unwritten(repository.image(node).path)
        if isinstance(image_format, CowUtil):
            _hide(image_format, repository.image(node).path)
        else:
            blocked = forest.blocked(vdi_uuid)
            if blocked is not None:
                raise VdiDelete(f"{vdi_uuid}: {blocked.reason}")
            if record is not None:
                _mark_deleting(repository, record)
            repository.store.remove(vdi_uuid, node.format)
    elif record is None:
        raise VdiMissing(f"SR {repository.uuid} has no VDI {vdi_uuid}")
    else:
        _require_parentless(records, vdi_uuid)
    if record is not None:
        repository.pool.forget_vdi(record.ref)


def _require_unneeded(forest: Forest, vdi_uuid: str) -> None:
    """Raise `VdiDelete` while something that is no child in sight depends on the image."""
    for reference in forest.references:
        if reference.parent == vdi_uuid:
            raise VdiDelete(f"{reference.name}, {reference.said}, needs {vdi_uuid}")


def _require_parentless(records: Mapping[str, VdiRecord], vdi_uuid: str) -> None:
    """Raise `VdiDelete` while a disk sits on an image that is away: it would be lost for good.

    Records that are each other's parents can never be a disk again.
    """
    below: list[str] = []
    parent = records[vdi_uuid].sm_config.get(keys.PARENT)
    while parent is not None and parent in records and parent not in below:
        below.append(parent)
        parent = records[parent].sm_config.get(keys.PARENT)
    above = [
        each
        for each in records.values()
        if each.sm_config.get(keys.PARENT) == vdi_uuid and each.uuid not in below
    ]
    if above:
        raise VdiDelete(f"the image of {vdi_uuid} is away, and {above[0].uuid} needs it")


def _mark_deleting(repository: Repository, record: VdiRecord) -> None:
    """Say that the image of a record is about to go: if we end, its record is to be forgotten."""
    owner = Owner.this_process(repository.settings.host_uuid, "vdi_delete")
    repository.pool.remove_from_vdi_sm_config(record.ref, keys.DELETING)
    repository.pool.add_to_vdi_sm_config(record.ref, keys.DELETING, owner.text)


def _hide(image_format: CowUtil, path: Path) -> None:
    """Mark an image; it stays visible where that fails, since the mark alone would delete it."""
    try:
        image_format.set_hidden(path, True)
    except BaseException:
        image_format.set_hidden(path, False)
        raise


def resize(repository: Repository, vdi_uuid: str, size: int) -> None:
    """Grow a VDI to at least `size` bytes; the same size is no change, a smaller one refused."""
    node = require_leaf(repository, vdi_uuid)
    record = repository.vdi(vdi_uuid)
    if size < node.virtual_size:
        raise VdiSize(f"{vdi_uuid} has {node.virtual_size} bytes; a disk cannot shrink to {size}")
    rounded = round_size(repository.formats, node.format, size)
    if rounded > node.virtual_size:
        users = repository.active_hosts(record)
        if users:
            raise VdiInUse(f"{vdi_uuid} is active on {', '.join(users)}; deactivate it first")
        _grow(repository, node, rounded)
    refresh(repository, vdi_uuid)


def _grow(repository: Repository, node: Node, size: int) -> None:
    """Grow an image that nobody has open; where its volume has a size, there is room before."""
    image, path = repository.formats.get(node.format), repository.image(node).path
    require_unwritten(path)
    if repository.store.sized:
        # Larger tables are written before the old ones are given up.
        needed = image.used_size(path) + image.empty_size(size)
        room = Room(needed, image.full_size(size))
        repository.store.make_room(node.uuid, node.format, room, in_use=False)
    image.resize(path, size)


def require_leaf(repository: Repository, vdi_uuid: str) -> Node:
    """The image of a VDI that can be worked on; raises `VdiUnavailable` or `Busy`."""
    forest = repository.scan().forest
    if vdi_uuid not in forest:
        raise VdiMissing(f"SR {repository.uuid} has no image for VDI {vdi_uuid}")
    node = forest[vdi_uuid]
    damage = forest.chain_defect(vdi_uuid)
    if node.hidden or damage:
        raise VdiUnavailable(f"{vdi_uuid}: {damage[1] if damage else 'it is hidden'}")
    repository.require_free(vdi_uuid)
    return node


def refresh(repository: Repository, vdi_uuid: str) -> None:
    """Bring the record of one VDI up to date with its image."""
    forest = repository.scan().forest
    record = repository.vdi(vdi_uuid)
    if vdi_uuid not in forest or forest[vdi_uuid].problem:
        raise VdiUnavailable(f"{vdi_uuid}: its image is missing or cannot be read")
    bring_up_to_date(repository.pool, forest[vdi_uuid], record)


def introduce(
    repository: Repository, location: str, new_uuid: str, sm_config: Mapping[str, str]
) -> str:
    """Give a record to an image that lies in the SR without one; returns its UUID."""
    if new_uuid and new_uuid != location:
        raise InvalidArgument(f"the location {location} and the UUID {new_uuid} must be the same")
    node = require_leaf(repository, location)
    if location in repository.vdis():
        raise VdiExists(f"{location} is known already")
    known = catalogue.recall(repository).disks.get(location)
    refs = {uuid_: record.ref for uuid_, record in repository.vdis().items()}
    record = catalogue.new_record(repository, node, known, refs)
    merged = {**keys.without_marks(sm_config), **record.sm_config}
    repository.pool.introduce_vdi(replace(record, sm_config=merged))
    return location


def compose(repository: Repository, parent_ref: str, child_uuid: str) -> None:
    """Make the VDI `parent_ref` the parent of `child_uuid`, and hide it.

    Stopped between the two steps, the parent is visible with a child, which nothing deletes or
    merges; the call may be repeated.
    """
    parent_record = repository.pool.vdi(parent_ref)
    child = require_leaf(repository, child_uuid)
    parent = require_leaf(repository, parent_record.uuid)
    image_format = repository.formats.get(child.format)
    if not isinstance(image_format, CowUtil) or parent.format != child.format:
        raise VdiType(f"{child_uuid} is {child.format}, {parent.uuid} is {parent.format}")
    if parent.virtual_size > child.virtual_size:
        raise VdiSize(f"{parent.uuid} is larger than {child_uuid}")
    forest = repository.scan().forest
    if child_uuid in {node.uuid for node in forest.chain(parent.uuid)}:
        raise InvalidArgument(f"{child_uuid} is itself below {parent.uuid}")
    for record in (parent_record, repository.vdi(child_uuid)):
        users = repository.active_hosts(record)
        if users:
            raise VdiInUse(f"{record.uuid} is active on {', '.join(users)}")
    for node in (child, parent):
        require_unwritten(repository.image(node).path)
    image_format.set_parent(repository.image(child).path, repository.image(parent))
    image_format.set_hidden(repository.image(parent).path, True)
    repository.pool.update_vdi(parent_record.ref, managed=False)
    refresh(repository, child_uuid)
