"""Work in progress, written where it survives with the storage, so that a crash is seen and mended.

An entry is one record of the SR. It is written before the first change it speaks of, replaced whole
at each stage, and removed after the last. Whoever finds one whose owner has ended finishes or
undoes the work; the module that writes an operation's entries says how.

A record that cannot be read still tells operation and key by its name, and holds the tree of that
image. It can be set aside under another name, where it goes on holding, and then be released.
No record is removed by anything but the end of its work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sm import decode
from sm.errors import InvalidArgument
from sm.owner import Owner
from sm.volumes.base import VolumeStore

PREFIX = "journal-"
ASIDE = "aside-"
"""Before the name of a record that cannot be read and was set aside; it holds what it held."""

RELEASED = "released-"
"""Before the name of one that holds nothing any more, and is kept to be looked at."""

_NAME = re.compile(
    r"(?:aside-[0-9]+-)?journal-([a-z-]+)-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
)

_MEMBERS: Mapping[str, decode.Types] = {
    "operation": (str,),
    "key": (str,),
    "stage": (str,),
    "owner": (str,),
    "data": (dict,),
}
_MERGE: Mapping[str, decode.Types] = {"format": (str,), "into": (str,), "images": (list,)}
_REQUIRED: Mapping[str, Mapping[str, decode.Types]] = {
    "snapshot": {"format": (str,), "base": (str,), "copy": (str, type(None)), "images": (list,)},
    **dict.fromkeys(("coalesce", "leaf-coalesce", "active-leaf-coalesce", "pull"), _MERGE),
}
"""What recovery cannot do without, by operation. An operation that is not here is not known."""

_OPTIONAL: Mapping[str, decode.Types] = {
    "below": (str, type(None)),
    "fingerprint": (str,),
    "host": (str,),
    "vdi": (str,),
    "claim": (str,),
    "copied": (int,),
    "freed": (int,),
    "pause_seconds": (int, float),
    "spent": (bool,),
}

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


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that is no entry. `key`: the UUID in its name; None where that tells none.

    `aside`: it was set aside, and holds what it held.
    """

    name: str
    key: str | None
    problem: str
    aside: bool = False

    @property
    def work(self) -> str:
        """In words, for whoever is held by it."""
        return f"the work in the record {shown(self.name)}, which cannot be read ({self.problem}),"


@dataclass(frozen=True, slots=True)
class Contents:
    """All records of a journal at one moment, in the order of their names."""

    entries: tuple[Entry, ...]
    unreadable: tuple[Unreadable, ...]


def contents(records: Mapping[str, bytes]) -> Contents:
    """The entries among the records of an SR, and what should be entries and is none. Pure."""
    entries, unreadable = [], []
    for name, content in records.items():
        if name.startswith(ASIDE):
            unreadable.append(Unreadable(name, _key(name), "set aside", aside=True))
        elif name.startswith(PREFIX):
            try:
                entries.append(parse(content, name))
            except ValueError as error:
                unreadable.append(Unreadable(name, _key(name), str(error)))
    return Contents(tuple(entries), tuple(unreadable))


def parse(content: bytes, name: str | None = None) -> Entry:
    """An entry from its record, which is called `name`; ValueError for something else."""
    if not content:
        raise ValueError("it is empty, or no regular file of a bounded length")
    found = decode.members(content, _MEMBERS)
    entry = Entry(**found)
    required = _REQUIRED.get(entry.operation)
    if required is None:
        raise ValueError(f"the operation {entry.operation[:40]!r} is not known")
    typed = {member: types for member, types in _OPTIONAL.items() if member in entry.data}
    known = {**required, **typed}
    decode.checked({key: entry.data[key] for key in entry.data if key in known}, known)
    decode.texts(entry.data["images"])
    if name is not None and name != entry.record_name:
        raise ValueError(f"it is that of {entry.record_name[:100]!r}")
    Owner.parse(entry.owner)
    return entry


def shown(name: str) -> str:
    """The name of a record as text that can be printed, whatever bytes it has."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _key(name: str) -> str | None:
    found = _NAME.fullmatch(name)
    return None if found is None else found[2]


class Journal:
    """The entries of one SR. `observer` is told of every step before it is taken."""

    def __init__(self, store: VolumeStore, host: str, observer: Observer = no_observer) -> None:
        self._store = store
        self._host = host
        self.observe = observer

    def entries(self) -> list[Entry]:
        """All entries that can be read, in the order of their names."""
        return list(self.contents().entries)

    def contents(self) -> Contents:
        """All of it, and what cannot be read."""
        return contents(self._store.records())

    def set_aside(self, name: str) -> str | None:
        """Give a record another name if it still cannot be read; returns that. SR lock held."""
        records = self._store.records()
        bad = {each.name for each in contents(records).unreadable if not each.aside}
        return self._renamed(name, ASIDE, records) if name in bad else None

    def release(self, name: str) -> str:
        """Let a record that was set aside hold nothing any more; returns its new name.

        SR lock held. Raises `InvalidArgument` for any other record.
        """
        records = self._store.records()
        for each in contents(records).unreadable:
            if each.aside and name in (each.name, shown(each.name)):
                return self._renamed(each.name, RELEASED, records)
        raise InvalidArgument(f"no record {name!r} was set aside; see 'sm doctor'")

    def _renamed(self, name: str, prefix: str, taken: Iterable[str]) -> str:
        names = frozenset(taken)
        plain = shown(name).replace("/", "_")
        number = next(n for n in range(1, len(names) + 2) if f"{prefix}{n}-{plain}" not in names)
        self._store.rename_record(name, f"{prefix}{number}-{plain}")
        return f"{prefix}{number}-{plain}"

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
