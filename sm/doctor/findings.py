"""From facts to findings, in the order in which they should be looked at. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from sm.doctor import of_images, of_records, of_state, of_use
from sm.doctor.facts import Access, Facts
from sm.doctor.finding import ClearMark, DropClaim, Finding, RemoveLink, ResetKey

_OF_MASTER: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    of_images.damaged,
    of_images.circles,
    of_state.journal,
    of_use.unfinished,
    of_state.progress,
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
    of_state.notes,
    of_state.ledger,
)


def findings(facts: Facts) -> list[Finding]:
    """Everything that is wrong with one SR, as far as this host can tell.

    What a record of the journal that cannot be read may be about is not mended by itself.
    """
    unreached = _unreached(facts)
    if unreached is not None:
        return [unreached]
    judges = (*_OF_MASTER, *_OF_ANY) if facts.master else _OF_ANY
    found = [finding for judge in judges for finding in judge(facts)]
    if not facts.unreadable:
        return found
    return [_left_alone(finding, facts) for finding in found]


def _left_alone(finding: Finding, facts: Facts) -> Finding:
    about_images = isinstance(finding.remedy, DropClaim | ClearMark | ResetKey | RemoveLink)
    held = about_images and finding.subject in facts.held
    return replace(finding, remedy=None) if held else finding


def _unreached(facts: Facts) -> Finding | None:
    uuid, name = facts.sr.uuid, facts.sr.name_label or facts.sr.uuid
    if facts.access is Access.LOST:
        text = f"the pool says that {name} is attached on this host, and it is not"
        return Finding("attachment-lost", uuid, uuid, text, f"sm sr attach {uuid}")
    if facts.access is Access.UNREADABLE:
        command = f"sm sr attach {uuid}"
        return Finding("attachment-unreadable", uuid, uuid, facts.problem, command)
    if facts.access is Access.GONE:
        text = f"the storage of {name} cannot be reached: {facts.problem}"
        return Finding("storage-gone", uuid, uuid, text, f"sm sr show {uuid}")
    return None
