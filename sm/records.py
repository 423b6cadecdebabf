"""What the pool's VDI records must say, given what is on the storage. Pure: a difference of values.

The images are the truth; a record is a copy for clients, brought up to date by a scan. A record of
an image that cannot be read, or that unfinished work is about, is left as it is. A record whose
image is away stays, and says so: the image may come back. Only one that was being made or deleted
is forgotten, when whoever did that has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from sm import keys
from sm.pool.base import VdiRecord
from sm.scan import Scan
from sm.tree import Node

BASE_COPY_NAME = "base copy"


@dataclass(frozen=True, slots=True)
class Update:
    """Fields of one record that must change, and sm-config keys to set (None: to remove)."""

    ref: str
    fields: Mapping[str, int | bool | str]
    sm_config: Mapping[str, str | None]


@dataclass(slots=True)
class Changes:
    """How to bring the records of an SR up to date."""

    introduce: list[Node] = field(default_factory=list)
    forget: list[VdiRecord] = field(default_factory=list)
    update: list[Update] = field(default_factory=list)
    away: list[VdiRecord] = field(default_factory=list)
    """Those whose images are away; `update` has what they do not say of it yet."""


def described(node: Node) -> dict[str, str | None]:
    """The sm-config keys that describe an image; None for one that must not be there."""
    return {
        keys.PARENT: node.parent,
        keys.IMAGE_FORMAT: node.format,
        keys.VDI_TYPE: keys.vdi_type(node.format),
    }


def sm_config_of(node: Node) -> dict[str, str]:
    """The sm-config of a new record for an image: those of the keys that it has."""
    return {key: value for key, value in described(node).items() if value is not None}


def reconcile(
    scan: Scan,
    records: Collection[VdiRecord],
    held: Collection[str],
    ended: Callable[[str], bool],
) -> Changes:
    """Compare by UUID. A hidden image without children is garbage, and has no record.

    `ended`: whether the owner of a mark is known to be gone.
    """
    changes = Changes()
    known = {record.uuid: record for record in records}
    forest = scan.forest
    for node in forest:
        if node.problem or node.uuid in held:
            continue
        garbage = node.hidden and not forest.children_of(node.uuid)
        record = known.get(node.uuid)
        if record is None:
            if not garbage:
                changes.introduce.append(node)
        elif garbage:
            changes.forget.append(record)
        else:
            update = difference(node, record, ended)
            if update is not None:
                changes.update.append(update)
    for uuid, record in known.items():
        if uuid not in forest and uuid not in held:
            _without_image(changes, record, ended)
    return changes


def is_away(record: VdiRecord) -> bool:
    """Whether a record that has no image is one of a disk, and not one that comes or goes."""
    return not _marks(record)


def _without_image(changes: Changes, record: VdiRecord, ended: Callable[[str], bool]) -> None:
    if is_away(record):
        changes.away.append(record)
        if not record.missing:
            changes.update.append(Update(record.ref, {"missing": True}, {}))
    elif all(ended(record.sm_config[key]) for key in _marks(record)):
        changes.forget.append(record)


def _marks(record: VdiRecord) -> list[str]:
    return [key for key in keys.COMING_AND_GOING if key in record.sm_config]


def _never(owner: str) -> bool:
    del owner
    return False


def difference(
    node: Node, record: VdiRecord, ended: Callable[[str], bool] = _never
) -> Update | None:
    """What of one record differs from its image; None when nothing does."""
    wanted: dict[str, int | bool | str] = {
        "virtual_size": node.virtual_size,
        "physical_utilisation": node.used,
        "managed": not node.hidden,
        "missing": False,
    }
    if node.hidden:
        wanted["read_only"] = True
    fields = {name: value for name, value in wanted.items() if getattr(record, name) != value}
    sm_config = {
        key: value for key, value in described(node).items() if record.sm_config.get(key) != value
    }
    # It was made, or not deleted: whoever was at it has ended.
    sm_config |= {key: None for key in _marks(record) if ended(record.sm_config[key])}
    return Update(record.ref, fields, sm_config) if fields or sm_config else None
