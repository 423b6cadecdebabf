"""Findings about files of ours that cannot be read: each holds back what it is about. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from sm.doctor.facts import Facts
from sm.doctor.finding import DropProgress, Finding, SetAside, SetNoteAside
from sm.journal import shown


def journal(facts: Facts) -> Iterator[Finding]:
    """Records of the journal that are none, and such as were set aside."""
    for each in facts.unreadable:
        name = shown(each.name)
        about = f"the tree of {each.key}" if each.key in facts.forest.nodes else "all images"
        if each.aside:
            text = f"the record {name} was set aside and holds {about}"
            command = f"sm sr release {facts.sr.uuid} {shlex.quote(name)}"
            yield Finding("journal-aside", facts.sr.uuid, name, text, command)
        else:
            text = f"the record {name} cannot be read and holds {about}: {each.problem}"
            remedy = SetAside(each.name)
            yield Finding("journal-unreadable", facts.sr.uuid, name, text, facts.fix, remedy)


def progress(facts: Facts) -> Iterator[Finding]:
    """Records of how far a merge came that are none."""
    for name in facts.progress:
        text = f"the record {shown(name)} cannot be read, and the merge begins anew"
        remedy = DropProgress(name)
        yield Finding("progress-unreadable", facts.sr.uuid, shown(name), text, facts.fix, remedy)


def notes(facts: Facts) -> Iterator[Finding]:
    """Notes about processes that are none."""
    for note in facts.notes:
        text = note.problem
        if note.carrier is not None:
            text += f"; process {note.carrier} may be it"
            command = f"ps -fp {note.carrier}"
            yield Finding("note-unreadable", facts.sr.uuid, note.vdi, text, command)
        else:
            remedy = SetNoteAside(note.vdi, note.folder)
            yield Finding("note-unreadable", facts.sr.uuid, note.vdi, text, facts.fix, remedy)


def ledger(facts: Facts) -> Iterator[Finding]:
    """The memory of the collector."""
    if facts.ledger is not None:
        path, problem = facts.ledger
        text = f"what the collector remembers cannot be read: {problem}"
        command = f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.aside')}"
        yield Finding("ledger-unreadable", facts.sr.uuid, facts.sr.uuid, text, command)
