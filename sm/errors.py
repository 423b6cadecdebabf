"""Every failure that a client can see: a type, a stable SMAPI code, and what to do about it.

The numbers and the fixed texts are data, in `etc/error_codes.json`: clients match both, so whatever
varies goes into `detail`. A new error is an entry there and a class here.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import ClassVar, TypedDict


class CodeEntry(TypedDict):
    """One row of the code table: the number, the fixed text, and advice for an administrator."""

    code: int
    text: str
    advice: str


@cache
def code_table() -> dict[str, CodeEntry]:
    """The error codes by name."""
    table: dict[str, CodeEntry] = json.loads(
        Path(__file__).with_name("etc").joinpath("error_codes.json").read_text(encoding="utf-8")
    )
    return table


class SmError(Exception):
    """A failure with an SMAPI code; `name` is its row in the table, `detail` what was wrong."""

    name: ClassVar[str] = "SMGeneral"

    def __init__(self, detail: str = "", *, name: str | None = None) -> None:
        self.code_name = name or type(self).name
        entry = code_table()[self.code_name]
        self.code = entry["code"]
        self.text = entry["text"]
        self.advice = entry["advice"]
        self.detail = detail
        super().__init__(self.fault_string)

    @property
    def fault_string(self) -> str:
        """The text of the fault as clients parse it: fixed words, then the variable part."""
        return f"{self.text} [opterr={self.detail}]" if self.detail else self.text


class ChoiceNeeded(SmError):
    """device_config lacks something that can be chosen; `document` lists what there is, as XML."""

    def __init__(self, detail: str, document: str, *, name: str) -> None:
        super().__init__(detail, name=name)
        self.document = document


class BadRequest(SmError):
    """The request cannot be parsed or names an unknown command."""

    name = "BadRequest"


class Unimplemented(SmError):
    """The driver does not support this command for this object."""

    name = "Unimplemented"


class InvalidArgument(SmError):
    """An argument has a value that cannot be used."""

    name = "InvalidArg"


class SrUnavailable(SmError):
    """The storage is not attached on this host, or has gone away since."""

    name = "SRUnavailable"


class SrExists(SmError):
    """There is something already where a new storage repository should go."""

    name = "SRExists"


class SrNotEmpty(SmError):
    """The storage repository still holds disks."""

    name = "SRNotEmpty"


class SrInUse(SmError):
    """Something still uses the storage repository."""

    name = "SRInUse"


class SrNoSpace(SmError):
    """Too little free space for what was asked."""

    name = "SRNoSpace"


class SrScanFailed(SmError):
    """The storage could not be examined."""

    name = "SRScan"


class StateUnreadable(SmError):
    """A file that says something about one SR, disk or process cannot be read."""

    name = "StateUnreadable"


class Interrupted(SmError):
    """Whoever gave the command has it end."""

    name = "Interrupted"


class Defect(SmError):
    """Something that should not be possible: a fault of ours, not of who gave the command."""

    name = "GenericException"


class VdiInUse(SmError):
    """The disk is active, here or on another host."""

    name = "VDIInUse"


class VdiExists(SmError):
    """An image with this UUID is there already."""

    name = "VDIExists"


class VdiUnavailable(SmError):
    """The image is missing, hidden or unreadable."""

    name = "VDIUnavailable"


class VdiMissing(SmError):
    """No such disk."""

    name = "VDIMissing"


class VdiSize(SmError):
    """A size out of range, or a shrink."""

    name = "VDISize"


class VdiType(SmError):
    """The format or type of the disk does not allow this."""

    name = "VDIType"


class VdiDelete(SmError):
    """The disk may not be deleted."""

    name = "VDIDelete"


class SnapshotChainTooLong(SmError):
    """The chain has reached the length limit."""

    name = "SnapshotChainTooLong"


class Busy(SmError):
    """Another operation is under way; the same request may succeed later."""

    name = "EGAIN"


class LockFailed(SmError):
    """A lock could not be taken in time."""

    name = "LockErr"


class HostUnreachable(SmError):
    """Another host does not answer: what it does is not known."""

    name = "HostUnreachable"


class ToolFailed(SmError):
    """An external tool failed, ran out of time or could not be started."""

    name = "SMGeneral"

    def __init__(self, argv: tuple[str, ...], problem: str, stderr: str = "") -> None:
        said = " ".join(stderr.split())[-400:]
        super().__init__(f"{' '.join(argv)}: {problem}{': ' + said if said else ''}")
        self.argv = argv
        self.stderr = stderr


class PoolError(SmError):
    """The pool database refused or could not be reached."""

    name = "APIFailure"


class RecordMissing(PoolError):
    """No record with this reference or UUID."""


class DuplicateKey(PoolError):
    """The key exists already: somebody else was first."""
