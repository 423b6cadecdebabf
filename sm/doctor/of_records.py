"""Findings about the pool's records, compared with the images, which are the truth. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sm.doctor.facts import Facts
from sm.doctor.finding import Finding, Scan
from sm.pool.base import VdiRecord
from sm.records import difference, is_away
from sm.tree import Node

ALWAYS_BEHIND = frozenset({"physical_utilisation"})
"""Fields that follow what guests write, and are set anew at each scan."""

MANAGED = frozenset({"managed", "read_only"})
"""Fields of which `hidden` in the image decides; these have findings of their own."""


def records(facts: Facts) -> Iterator[Finding]:
    """Records without image, images without record, and records that say something else.

    What unfinished work is about is left out, and so are images that cannot be read.
    """
    if facts.scan is None:
        return
    forest = facts.forest
    for uuid, record in facts.records.items():
        if uuid not in forest and uuid not in facts.held:
            yield _without_image(facts, record)
        elif uuid in forest and uuid not in facts.held and not forest[uuid].problem:
            yield from _compared(facts, forest[uuid], record)
    for node in forest:
        garbage = node.hidden and not forest.children_of(node.uuid)
        unknown = node.uuid not in facts.records and node.uuid not in facts.held
        if unknown and not garbage and not node.problem:
            text = f"a {'hidden' if node.hidden else 'visible'} {node.format} image has no record"
            yield _scanned(facts, "image-without-record", node.uuid, text)


def _without_image(facts: Facts, record: VdiRecord) -> Finding:
    named = facts.named(record.uuid)
    if is_away(record):
        text = f"the image of {named} is away; what it needs is kept"
        command = f"sm vdi forget {record.uuid}"
        return Finding("image-missing", facts.sr.uuid, record.uuid, text, command)
    text = f"the pool knows {named}, which was being made or deleted, and its image is not there"
    return _scanned(facts, "record-without-image", record.uuid, text)


def _compared(facts: Facts, node: Node, record: VdiRecord) -> Iterator[Finding]:
    if node.hidden and not facts.forest.children_of(node.uuid):
        text = f"the image of {facts.named(node.uuid)} is marked deleted, and its record is there"
        yield _scanned(facts, "deleted-with-record", node.uuid, text)
        return
    if node.hidden and record.managed:
        text = f"the image of {facts.named(node.uuid)} is hidden, and the pool shows it as a disk"
        yield _scanned(facts, "hidden-but-shown", node.uuid, text)
    elif not node.hidden and not record.managed:
        text = "the image is a disk of a user, and the pool takes it for a hidden one"
        yield _scanned(facts, "visible-but-unmanaged", node.uuid, text)
    update = difference(node, record)
    if update is None:
        return
    said = [
        f"{name} is {getattr(record, name)}, its image says {value}"
        for name, value in update.fields.items()
        if name not in ALWAYS_BEHIND | MANAGED
    ]
    said += [
        f"{key} is {record.sm_config.get(key)}, its image says {value}"
        for key, value in update.sm_config.items()
    ]
    if node.hidden and not record.managed and not record.read_only:
        said.append("read_only is not set, and its image is hidden")
    if said:
        yield _scanned(facts, "record-differs", node.uuid, f"{'; '.join(said)}")


def _scanned(facts: Facts, code: str, uuid: str, text: str) -> Finding:
    return Finding(code, facts.sr.uuid, uuid, text, f"sm sr scan {facts.sr.uuid}", Scan())


def names(facts: Facts) -> Iterator[Finding]:
    """Names that the storage does not remember as the pool has them.

    Where records have to be mended that is done first, and the names with them.
    """
    if facts.names is not None and next(records(facts), None) is None:
        text = f"the names of the disks on the storage: {facts.names}"
        yield _scanned(facts, "names-differ", facts.sr.uuid, text)


def failed_work(facts: Facts) -> Iterator[Finding]:
    """Work of the collector that has failed and is not done yet."""
    for uuid, failure in facts.failures.items():
        if uuid not in facts.forest:
            continue
        times = "once" if failure.count == 1 else f"{failure.count} times in a row"
        text = f"merging or deleting it failed {times}: {failure.code}: {failure.reason}"
        yield Finding("work-failed", facts.sr.uuid, uuid, text, f"sm explain {failure.code}")
