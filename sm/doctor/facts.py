"""All that the findings are made from: plain values, gathered at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sm.gc.state.ledger import Failure
from sm.journal import Entry, Unreadable
from sm.pool.base import SrRecord, VdiRecord
from sm.scan import Scan
from sm.tree import Forest


class Access(StrEnum):
    """How this host stands to an SR."""

    ATTACHED = "attached"
    DETACHED = "detached"
    """Neither the pool nor this host says otherwise."""
    LOST = "lost"
    """The pool says that it is attached here, and it is not."""
    GONE = "gone"
    """It is attached, and its storage is not there."""
    UNREADABLE = "unreadable"
    """Whether it is attached cannot be known."""


class Life(StrEnum):
    """What is known of the process that owns something."""

    LIVES = "lives"
    """Or cannot be told from one that does: it is of the present boot of another host."""
    ENDED = "ended"
    SILENT = "silent"
    """Its host does not answer."""
    UNKNOWN_HOST = "unknown-host"
    """The pool has no such host."""
    FOREIGN = "foreign"
    """It is no owner of ours: another installation wrote it."""


@dataclass(frozen=True, slots=True)
class Owned:
    """Something with an owner. `said` tells who; `host` is the name of its host, if it has one."""

    life: Life
    said: str = ""
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark in the sm-config of a VDI that says that somebody is at work on it."""

    vdi: str
    key: str
    value: str
    owner: Owned


@dataclass(frozen=True, slots=True)
class Use:
    """A host key: host `host` (a reference, `name` in words) is said to have the VDI active.

    `served` as the host says; None when it does not tell, then `problem` says why.
    """

    vdi: str
    host: str
    name: str
    here: bool
    known: bool
    served: bool | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class FoundClaim:
    """A claim on the SR; `target` is the UUID in its key."""

    key: str
    value: str
    target: str
    merge: bool
    owner: Owned


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """A journal entry; `here` says that it was written by this host."""

    entry: Entry
    owner: Owned
    here: bool


@dataclass(frozen=True, slots=True)
class BadNote:
    """A note in `folder` about the process of a VDI, which cannot be read.

    `carrier`: a process that may be that one; None where there is none.
    """

    vdi: str
    folder: Path
    problem: str
    carrier: int | None


@dataclass(frozen=True, slots=True)
class Facts:
    """One SR. `scan` is None where its storage cannot be reached, and then most else is empty.

    `master`: whether this host changes its chains; else only what is this host's was looked at.
    `held`: UUID of each image that unfinished work is about, or may be. `unreadable`: records of
    the journal that cannot be read. `progress`: names of records of copies that cannot be. `notes`:
    those about processes that cannot be. `ledger`: the file of the collector's memory where that
    cannot be, and why. `damage`: what a full check found, by UUID of each image that was checked.
    `limits`: the longest chain of each format that has any. `leftovers`: names of temporary files.
    `dead_links`: VDIs whose links lead nowhere. `failures`: those of the collector by subject.
    `half_started`: VDIs whose processes were being started here by something that has ended.
    `keyless`: VDIs that processes of this host serve, and whose records do not say so.
    `read_only`: nothing can be written to the storage.
    `names`: what is wrong with the names that the storage remembers; None for nothing.
    """

    sr: SrRecord
    access: Access
    master: bool = True
    problem: str = ""
    scan: Scan | None = None
    records: Mapping[str, VdiRecord] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    entries: tuple[FoundEntry, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    progress: tuple[str, ...] = ()
    notes: tuple[BadNote, ...] = ()
    ledger: tuple[Path, str] | None = None
    claims: tuple[FoundClaim, ...] = ()
    marks: tuple[Mark, ...] = ()
    uses: tuple[Use, ...] = ()
    damage: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    leftovers: tuple[str, ...] = ()
    dead_links: tuple[str, ...] = ()
    half_started: tuple[str, ...] = ()
    keyless: tuple[str, ...] = ()
    read_only: bool = False
    failures: Mapping[str, Failure] = field(default_factory=dict)
    names: str | None = None

    @property
    def forest(self) -> Forest:
        """The trees; empty where nothing could be scanned."""
        return Forest(()) if self.scan is None else self.scan.forest

    @property
    def fix(self) -> str:
        """The command that mends what can be mended of the SR."""
        return f"sm doctor --sr {self.sr.uuid} --fix"

    def named(self, uuid: str) -> str:
        """A VDI or image in words: its name where it has one that users gave, and its UUID."""
        record = self.records.get(uuid)
        name = record.name_label if record is not None and record.managed else ""
        return f"{name} ({uuid})" if name else uuid
