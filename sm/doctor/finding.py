"""What the doctor says of one thing that is wrong, and the safe ways to mend such things."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Recover:
    """Finish or undo the work that a process of this host left."""


@dataclass(frozen=True, slots=True)
class DropClaim:
    """Withdraw a claim whose owner has ended, if it is still this very one."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class ClearMark:
    """Take a mark that nobody holds from the record of a VDI, if it is still this very one."""

    vdi: str
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class ResetKey:
    """Take back that this host has a VDI active, where no process serves it."""

    vdi: str
    host: str


@dataclass(frozen=True, slots=True)
class SettleStart:
    """End the process of a disk that is half started, and that nobody waits for."""

    vdi: str


@dataclass(frozen=True, slots=True)
class PublishUse:
    """Have the record of a VDI say that this host serves it, if a process does."""

    vdi: str


@dataclass(frozen=True, slots=True)
class RemoveLink:
    """Remove the link of a disk that is not served."""

    vdi: str


@dataclass(frozen=True, slots=True)
class Scan:
    """Remove what interrupted calls left, and bring the records in line with the images."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """Give a record of the journal that cannot be read another name; what it holds stays held."""

    record: str


@dataclass(frozen=True, slots=True)
class SetNoteAside:
    """Give a note that cannot be read another name, where no process may be the one it is about."""

    vdi: str
    folder: Path


@dataclass(frozen=True, slots=True)
class DropProgress:
    """Give a record of how far a merge came, which cannot be read, another name."""

    record: str


Remedy = (
    SettleStart
    | PublishUse
    | Recover
    | SetAside
    | SetNoteAside
    | DropProgress
    | DropClaim
    | ClearMark
    | ResetKey
    | RemoveLink
    | Scan
)
"""What `sm.doctor.mend` can do. None of them writes to an image or removes one."""

ORDER: tuple[type[Remedy], ...] = (
    *(SettleStart, PublishUse, Recover, SetAside, SetNoteAside, DropProgress),
    *(DropClaim, ClearMark, ResetKey, RemoveLink, Scan),
)
"""What is unfinished first, since it holds its images; the records last."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `code` is stable; `subject` is a UUID, or a name where it has none.

    `mend` is the command that mends it, or tells more where no command can; `remedy` is set where
    the doctor can do it.
    """

    code: str
    sr: str
    subject: str
    text: str
    mend: str
    remedy: Remedy | None = None


@cache
def finding_codes() -> dict[str, dict[str, str]]:
    """Each code: `text`, why such a finding matters, and `advice`."""
    table: dict[str, dict[str, str]] = json.loads(
        files("sm").joinpath("etc", "finding_codes.json").read_text(encoding="utf-8")
    )
    return table
