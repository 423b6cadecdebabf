"""What the disks need whose images are away, so that they are whole when these come back. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from sm import keys
from sm.pool.base import VdiRecord
from sm.records import is_away
from sm.tree import AWAY, Forest, Reference


def references(
    records: Mapping[str, VdiRecord], forest: Forest, held: Collection[str]
) -> Iterator[Reference]:
    """One for each record (by UUID) without an image, but for those that unfinished work is about.

    What such a disk sat on is told by its record: the pool has it from the image.
    """
    for uuid, record in records.items():
        if uuid not in forest and uuid not in held and is_away(record):
            parent, known = _parent(record, records, forest)
            image_format = record.sm_config.get(keys.IMAGE_FORMAT, "")
            name = f"{record.name_label} ({uuid})" if record.name_label else uuid
            yield Reference(f"VDI {name}", image_format, parent, known, AWAY)


def _parent(
    record: VdiRecord, records: Mapping[str, VdiRecord], forest: Forest
) -> tuple[str | None, bool]:
    """The first image below a record's that is there, and whether that is known.

    Parents may be away as well; then it is what these sat on.
    """
    seen = {record.uuid}
    while True:
        parent = record.sm_config.get(keys.PARENT)
        if not parent:
            return None, True
        if parent in forest:
            return parent, True
        if parent in seen or parent not in records:
            return None, False
        seen.add(parent)
        record = records[parent]
