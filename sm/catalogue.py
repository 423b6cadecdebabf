"""What the storage of an SR remembers of its disks' names, and taking it back in another pool.

As long as the pool has a record, the pool is the truth, and the storage has a copy; it is looked at
only for an image without a record. The SR lock is held for all of this.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from sm import keys
from sm.cowutil.errors import ImageError
from sm.errors import InvalidArgument, SmError
from sm.pool.base import NULL_REF, NewVdi
from sm.pool.times import canonical_time
from sm.records import BASE_COPY_NAME, sm_config_of
from sm.repository import Repository
from sm.tree import Node
from sm.volumes.base import Volume
from sm.volumes.described import Catalogue, Described, Keep

log = logging.getLogger(__name__)

VDI_TYPES = frozenset(
    {
        "cbt_metadata",
        "crashdump",
        "ephemeral",
        "ha_statefile",
        "metadata",
        "pvs_cache",
        "redo_log",
        "rrd",
        "suspend",
        "system",
        "user",
    }
)
"""The types of a VDI that XenAPI has; a pool may refuse another."""

MOST_CHARACTERS = 4096
"""Of a name or a description that comes from a storage."""

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def remember(repository: Repository) -> None:
    """Have the storage remember what the pool says, if this host is the SR's master.

    What came before has succeeded, so a failure is only logged; the next change tries it again.
    """
    try:
        if repository.pool.is_sr_master(repository.record):
            repository.store.describe(_catalogue(repository), _keep(repository))
    except (SmError, OSError) as error:
        log.warning("the names of the disks of SR %s are not written: %s", repository.uuid, error)


def is_remembered(repository: Repository) -> bool:
    """Whether the storage remembers what the pool says. Raises `SmError` or OSError."""
    return repository.store.is_described(_catalogue(repository), _keep(repository))


def recall(repository: Repository) -> Catalogue:
    """What the storage remembers of its names; nothing where that cannot be read.

    Texts are made such that every pool takes them.
    """
    try:
        found = repository.store.descriptions()
    except (SmError, OSError) as error:
        log.warning("the names of the disks of SR %s are lost: %s", repository.uuid, error)
        return Catalogue()
    return Catalogue(
        _text(found.name_label),
        _text(found.name_description),
        {uuid: _clean(disk) for uuid, disk in found.disks.items()},
    )


def new_record(
    repository: Repository, node: Node, known: Described | None, refs: Mapping[str, str]
) -> NewVdi:
    """The record of an image that has none. `refs`: references by UUID, to find an original."""
    record = NewVdi(
        uuid=node.uuid,
        sr=repository.record.ref,
        name_label=BASE_COPY_NAME if node.hidden else "",
        virtual_size=node.virtual_size,
        physical_utilisation=node.used,
        managed=not node.hidden,
        read_only=node.hidden,
        sm_config=sm_config_of(node),
    )
    if known is None:
        return record
    return replace(
        record,
        name_label=known.name_label or record.name_label,
        name_description=known.name_description,
        type=known.type,
        read_only=node.hidden or known.read_only,
        is_a_snapshot=known.is_a_snapshot,
        snapshot_of=refs.get(known.snapshot_of, NULL_REF),
        snapshot_time=known.snapshot_time,
        metadata_of_pool=known.metadata_of_pool or NULL_REF,
    )


def originals_first(disks: Iterable[str], known: Mapping[str, Described]) -> list[str]:
    """UUIDs in an order in which each comes after what it is a snapshot of. Pure.

    Of a circle one comes first.
    """
    wanted = dict.fromkeys(disks)
    ordered: dict[str, None] = {}
    for uuid in wanted:
        above: dict[str, None] = {}
        here = uuid
        while here in wanted and here not in ordered and here not in above:
            above[here] = None
            here = known[here].snapshot_of if here in known else ""
        ordered |= dict.fromkeys(reversed(above))
    return list(ordered)


def _catalogue(repository: Repository) -> Catalogue:
    """What the pool says. Read afresh: a collector has its repository open for days."""
    sr = repository.pool.sr(repository.record.ref)
    records = repository.vdis()
    uuids = {record.ref: uuid for uuid, record in records.items()}
    disks = {
        uuid: Described(
            uuid=uuid,
            name_label=record.name_label,
            name_description=record.name_description,
            type=record.type,
            is_a_snapshot=record.is_a_snapshot,
            snapshot_of=uuids.get(record.snapshot_of, ""),
            snapshot_time=record.snapshot_time,
            read_only=record.read_only,
            managed=record.managed,
            metadata_of_pool="" if record.metadata_of_pool == NULL_REF else record.metadata_of_pool,
            vdi_type=record.sm_config.get(keys.VDI_TYPE, ""),
        )
        for uuid, record in records.items()
    }
    return Catalogue(sr.name_label, sr.name_description, disks)


def _keep(repository: Repository) -> Keep:
    """Keeps the names of disks that a later scan may introduce: the image is there, not hidden.

    So one that cannot be read today has its name when it is mended.
    """
    images: dict[str, list[Volume]] = {}

    def keep(uuid: str) -> bool:
        if not images:
            for volume in repository.store.listing().volumes:
                images.setdefault(volume.uuid, []).append(volume)
        return not all(_is_hidden(repository, volume) for volume in images.get(uuid, ()))

    return keep


def _is_hidden(repository: Repository, volume: Volume) -> bool:
    """Whether an image is known to be hidden."""
    if volume.hidden:
        return True
    image_format = repository.formats.get(volume.format)
    try:
        return all(image_format.info(path).hidden for _, path in repository.store.headers([volume]))
    except (ImageError, OSError):
        return False


def _clean(disk: Described) -> Described:
    try:
        time = canonical_time(disk.snapshot_time)
    except InvalidArgument:
        time = ""
    return replace(
        disk,
        name_label=_text(disk.name_label),
        name_description=_text(disk.name_description),
        type=disk.type if disk.type in VDI_TYPES else "user",
        snapshot_time=time,
        metadata_of_pool=_text(disk.metadata_of_pool),
    )


def _text(text: str) -> str:
    return _ILLEGAL.sub("?", text[:MOST_CHARACTERS])
