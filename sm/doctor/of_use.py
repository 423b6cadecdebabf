"""Findings about who uses and who changes what: marks, host keys, claims, journal, links. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from sm import keys
from sm.doctor.facts import Facts, FoundClaim, FoundEntry, Life, Mark, Use
from sm.doctor.finding import (
    ClearMark,
    DropClaim,
    Finding,
    PublishUse,
    Recover,
    RemoveLink,
    ResetKey,
    SettleStart,
)
from sm.repository import COLLECTOR_OPERATIONS

OVER = frozenset({Life.ENDED, Life.UNKNOWN_HOST})


def marks(facts: Facts) -> Iterator[Finding]:
    """Marks in the records of VDIs that nobody holds any more, or that others set."""
    for mark in facts.marks:
        if mark.owner.life is Life.FOREIGN:
            yield _foreign_mark(facts, mark)
        elif mark.owner.life in OVER:
            text = f"{facts.named(mark.vdi)} is said to be activated by {mark.owner.said}, which"
            text += " has ended" if mark.owner.life is Life.ENDED else ", a host the pool lacks"
            fix = facts.fix
            remedy = ClearMark(mark.vdi, mark.key, mark.value)
            yield Finding("stale-activating", facts.sr.uuid, mark.vdi, text, fix, remedy)
        elif mark.owner.life is Life.SILENT:
            text = f"{facts.named(mark.vdi)} is said to be activated by {mark.owner.said}"
            yield _silent(facts, mark.vdi, mark.owner.host or "", f"{text}, which does not answer")


def _foreign_mark(facts: Facts, mark: Mark) -> Finding:
    text = f"{facts.named(mark.vdi)} carries {mark.key}={mark.value}, which is none of ours"
    users = [use.name for use in facts.uses if use.vdi == mark.vdi]
    if users:
        text += f"; it is active on {', '.join(users)}"
        command = f"sm vdi deactivate {mark.vdi}"
        return Finding("foreign-mark", facts.sr.uuid, mark.vdi, text, command)
    remedy = ClearMark(mark.vdi, mark.key, mark.value)
    return Finding("foreign-mark", facts.sr.uuid, mark.vdi, text, facts.fix, remedy)


def _silent(facts: Facts, vdi: str, host: str, text: str) -> Finding:
    command = f"sm vdi reset {vdi} --host {shlex.quote(host)} --host-is-off"
    return Finding("host-silent", facts.sr.uuid, vdi, f"{text}; only if it is off", command)


def host_keys(facts: Facts) -> Iterator[Finding]:
    """Host keys of VDIs that their hosts do not serve, or of hosts that do not say."""
    activating = [mark for mark in facts.marks if mark.key == keys.ACTIVATING]
    at_work = {mark.vdi for mark in activating if mark.owner.life not in OVER}
    for use in facts.uses:
        if use.served or use.vdi in at_work:
            continue
        if not use.known:
            text = (
                f"{facts.named(use.vdi)} is said to be active on a host the pool lacks: {use.host}"
            )
            command = f"sm vdi show {use.vdi}"
            yield Finding("host-unknown", facts.sr.uuid, use.vdi, text, command)
        elif use.served is None:
            text = f"{facts.named(use.vdi)} is said to be active on {use.name}: {use.problem}"
            yield _silent(facts, use.vdi, use.name, text)
        else:
            yield _unserved(facts, use)


def _unserved(facts: Facts, use: Use) -> Finding:
    text = f"{facts.named(use.vdi)} is said to be active on {use.name}, where no process serves it"
    command = f"sm vdi reset {use.vdi} --host {shlex.quote(use.name)}"
    remedy = ResetKey(use.vdi, use.host) if use.here else None
    return Finding("key-without-process", facts.sr.uuid, use.vdi, text, command, remedy)


def waiting(facts: Facts) -> Iterator[Finding]:
    """Disks whose users wait for room, and marks of such a wait that is over."""
    for vdi, record in facts.records.items():
        for key in keys.WAITS:
            value = record.sm_config.get(key)
            if value is None:
                continue
            if not keys.active_hosts(record.sm_config):
                text = f"{facts.named(vdi)} carries {key}, and is not active anywhere"
                remedy = ClearMark(vdi, key, value)
                yield Finding(key, facts.sr.uuid, vdi, text, facts.fix, remedy)
                continue
            if key == keys.WAITS_FOR_SPACE:
                text, command = "as the SR is full", f"sm gc run --sr {facts.sr.uuid}"
            else:
                text, command = "which the SR master does not give", "sm host list"
            text = f"the users of {facts.named(vdi)} wait for {value} bytes, {text}"
            yield Finding(key, facts.sr.uuid, vdi, text, command)


def claims(facts: Facts) -> Iterator[Finding]:
    """Claims whose owners have ended and that no journal entry will take along."""
    journaled = {found.entry.data.get("into") for found in facts.entries}
    for claim in facts.claims:
        if claim.owner.life is Life.FOREIGN:
            text = f"the claim {claim.key} cannot be read"
            yield Finding("claim-unreadable", facts.sr.uuid, claim.target, text, _show(facts))
        elif claim.owner.life in OVER and not (claim.merge and claim.target in journaled):
            yield _stale_claim(facts, claim)


def _stale_claim(facts: Facts, claim: FoundClaim) -> Finding:
    text = f"{claim.owner.said} claims it ({claim.key}), and has ended"
    remedy = DropClaim(claim.key, claim.value)
    return Finding("stale-claim", facts.sr.uuid, claim.target, text, facts.fix, remedy)


def _show(facts: Facts) -> str:
    return f"sm sr show {facts.sr.uuid}"


def unfinished(facts: Facts) -> Iterator[Finding]:
    """Work that was begun and whose process has ended."""
    for found in facts.entries:
        if found.owner.life in OVER:
            yield _unfinished(facts, found)


def _unfinished(facts: Facts, found: FoundEntry) -> Finding:
    entry = found.entry
    text = f"{entry.operation} was interrupted at stage {entry.stage}; {found.owner.said} has ended"
    collectors = entry.operation in COLLECTOR_OPERATIONS
    command = f"sm {'gc run --sr' if collectors else 'sr scan'} {facts.sr.uuid}"
    remedy = Recover() if found.here or not collectors else None
    return Finding("unfinished-work", facts.sr.uuid, entry.key, text, command, remedy)


def read_only(facts: Facts) -> Iterator[Finding]:
    """Storage that takes no write."""
    if facts.read_only:
        text = "the file system of the SR is read-only"
        yield Finding("storage-read-only", facts.sr.uuid, facts.sr.uuid, text, _show(facts))


def half_started(facts: Facts) -> Iterator[Finding]:
    """Processes that were being started when whoever did so was ended."""
    for vdi in facts.half_started:
        text = f"an activation of {facts.named(vdi)} was interrupted while its process was starting"
        yield Finding("start-unfinished", facts.sr.uuid, vdi, text, facts.fix, SettleStart(vdi))


def keyless(facts: Facts) -> Iterator[Finding]:
    """Processes of this host that no host key tells of."""
    for vdi in facts.keyless:
        text = f"a process of this host serves {facts.named(vdi)}, and its record does not say so"
        remedy = PublishUse(vdi)
        yield Finding("process-without-key", facts.sr.uuid, vdi, text, facts.fix, remedy)


def dead_links(facts: Facts) -> Iterator[Finding]:
    """Links to the sockets of disks that nothing serves."""
    for vdi in facts.dead_links:
        text = f"the link to the disk {facts.named(vdi)} is there, and no process serves it"
        yield Finding("dead-link", facts.sr.uuid, vdi, text, facts.fix, RemoveLink(vdi))
