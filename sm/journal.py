"""Work in progress, written where it survives with the storage, so that a crash is seen and mended.

An entry is one record of the SR. It is written before the first change it speaks of, replaced whole
at each stage, and removed after the last. Whoever finds one whose owner has ended finishes or
undoes the work; the module that writes an operation's entries says how.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from sm.owner import Owner
from sm.volumes.base import VolumeStore

PREFIX = "journal-"

Observer = Callable[[str], None]
"""Told of each step just before it is taken; tests use it to stop the process there."""


def no_observer(step: str) -> None:
    """Take no notice."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of work: `operation` on the image `key`, at `stage`, with what recovery needs."""

    operation: str
    key: str
    stage: str
    owner: str
    data: dict[str, Any]

    @property
    def record_name(self) -> str:
        """The name of its record."""
        return f"{PREFIX}{self.operation}-{self.key}"

    @property
    def images(self) -> frozenset[str]:
        """The UUIDs of all images that the work is about."""
        named = self.data.get("images", [])
        return frozenset((self.key, *named))

    def owner_ended(self, host: str) -> bool:
        """Whether its process is known to be gone, seen from host `host`."""
        return Owner.parse(self.owner).ended(host)


def parse(content: bytes) -> Entry:
    """An entry from its record; ValueError for something else."""
    try:
        entry = Entry(**json.loads(content))
    except TypeError as error:
        raise ValueError(f"not a journal entry: {content[:100]!r}") from error
    if not isinstance(entry.data, dict):
        raise ValueError(f"not a journal entry: {content[:100]!r}")
    Owner.parse(entry.owner)
    return entry


class Journal:
    """The entries of one SR. `observer` is told of every step before it is taken."""

    def __init__(self, store: VolumeStore, host: str, observer: Observer = no_observer) -> None:
        self._store = store
        self._host = host
        self.observe = observer

    def entries(self) -> list[Entry]:
        """All entries, in the order of their names."""
        return [
            parse(content)
            for name, content in self._store.records().items()
            if name.startswith(PREFIX)
        ]

    def open(self, operation: str, key: str, stage: str, **data: Any) -> Entry:
        """Write a new entry."""
        owner = Owner.this_process(self._host, operation).text
        return self._write(Entry(operation, key, stage, owner, data))

    def advance(self, entry: Entry, stage: str, **data: Any) -> Entry:
        """Replace the entry by one at `stage`, with `data` added."""
        return self._write(replace(entry, stage=stage, data={**entry.data, **data}))

    def adopt(self, entry: Entry) -> Entry:
        """Become the owner of an entry whose owner has ended."""
        return self._write(
            replace(entry, owner=Owner.this_process(self._host, entry.operation).text)
        )

    def close(self, entry: Entry) -> None:
        """Remove the entry: the work is complete, or undone."""
        self.observe(f"{entry.operation}: close")
        self._store.remove_record(entry.record_name)

    def _write(self, entry: Entry) -> Entry:
        self.observe(f"{entry.operation}: {entry.stage}")
        content = json.dumps(asdict(entry), separators=(",", ":")).encode("utf-8")
        self._store.write_record(entry.record_name, content)
        return entry
