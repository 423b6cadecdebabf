"""What the pool's VDI records must say, given what is on the storage. Pure: a difference of values.

The images are the truth; a record is a copy for clients, brought up to date by a scan. A record of
an image that cannot be read, or that unfinished work is about, is left as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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


def reconcile(scan: Scan, records: Collection[VdiRecord], held: Collection[str]) -> Changes:
    """Compare by UUID. A hidden image without children is garbage, and has no record."""
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
            update = difference(node, record)
            if update is not None:
                changes.update.append(update)
    changes.forget += [
        record for uuid, record in known.items() if uuid not in forest and uuid not in held
    ]
    return changes


def difference(node: Node, record: VdiRecord) -> Update | None:
    """What of one record differs from its image; None when nothing does."""
    wanted: dict[str, int | bool | str] = {
        "virtual_size": node.virtual_size,
        "physical_utilisation": node.used,
        "managed": not node.hidden,
    }
    if node.hidden:
        wanted["read_only"] = True
    fields = {name: value for name, value in wanted.items() if getattr(record, name) != value}
    sm_config = {
        key: value for key, value in described(node).items() if record.sm_config.get(key) != value
    }
    return Update(record.ref, fields, sm_config) if fields or sm_config else None
