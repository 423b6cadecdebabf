"""From facts to findings, in the order in which they should be looked at. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from sm.doctor import of_images, of_records, of_use
from sm.doctor.facts import Access, Facts
from sm.doctor.finding import Finding

_OF_MASTER: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    of_images.damaged,
    of_images.circles,
    of_use.journal,
    of_use.claims,
    of_use.waiting,
    of_records.records,
    of_records.names,
    of_images.strangers,
    of_images.long_chains,
    of_images.leftovers,
    of_records.failed_work,
)
"""What only the host that changes the chains can judge: to others all may be in a change."""

_OF_ANY: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    of_use.read_only,
    of_use.half_started,
    of_use.keyless,
    of_use.marks,
    of_use.host_keys,
    of_use.dead_links,
)


def findings(facts: Facts) -> list[Finding]:
    """Everything that is wrong with one SR, as far as this host can tell.

    Where a journal entry cannot be read, nothing is mended by itself: no other work on the SR is
    possible until it is gone.
    """
    unreached = _unreached(facts)
    if unreached is not None:
        return [unreached]
    judges = (*_OF_MASTER, *_OF_ANY) if facts.master else _OF_ANY
    found = [finding for judge in judges for finding in judge(facts)]
    if facts.unreadable:
        return [replace(finding, remedy=None) for finding in found]
    return found


def _unreached(facts: Facts) -> Finding | None:
    uuid, name = facts.sr.uuid, facts.sr.name_label or facts.sr.uuid
    if facts.access is Access.LOST:
        text = f"the pool says that {name} is attached on this host, and it is not"
        return Finding("attachment-lost", uuid, uuid, text, f"sm sr attach {uuid}")
    if facts.access is Access.GONE:
        text = f"the storage of {name} cannot be reached: {facts.problem}"
        return Finding("storage-gone", uuid, uuid, text, f"sm sr show {uuid}")
    return None
