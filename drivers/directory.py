"""What all drivers share whose images are files in a folder: File, and those that mount one first.

The folder says in a record of its own which SR it holds. One that an existing installation filled
has no such record, and is taken for what it was introduced as.
"""

from __future__ import annotations

import os
from pathlib import Path

from sm.durable import TEMPORARY_PREFIX
from sm.errors import SmError, SrExists, SrUnavailable
from sm.sr import SR_RECORD, mark, marked
from sm.volumes.directory import RECORDS, DirectoryStore, identity

FEATURES = (
    "SR_PROBE",
    "SR_UPDATE",
    "VDI_CREATE",
    "VDI_DELETE",
    "VDI_ATTACH",
    "VDI_DETACH",
    "VDI_ACTIVATE",
    "VDI_DEACTIVATE",
    "VDI_SNAPSHOT",
    "VDI_CLONE",
    "VDI_RESIZE",
    "VDI_UPDATE",
    "VDI_INTRODUCE",
    "VDI_COMPOSE",
    "VDI_GENERATE_CONFIG",
    "LARGE_VDI",
    "THIN_PROVISIONING",
)

PREFERRED = ("preferred-image-formats", "formats for new disks, best first, by commas")

NOT_OURS = frozenset({"lost+found"})
"""What an empty file system holds."""


def holds(folder: Path) -> str | None:
    """The SR that a folder says it holds."""
    try:
        return marked((folder / RECORDS / SR_RECORD).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def size(folder: Path) -> int:
    """Bytes of the file system that a folder is in."""
    status = os.statvfs(folder)
    return status.f_blocks * status.f_frsize


def take(folder: Path, sr_uuid: str, error: str) -> None:
    """Make a new or empty folder the place of an SR.

    Raises `SrExists`, and `error` when the folder cannot be made or read.
    """
    present = holds(folder)
    if present is not None:
        raise SrExists(f"{folder} holds SR {present}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = sorted(path.name for path in folder.iterdir() if path.name not in NOT_OURS)
        if found == [RECORDS] and not _records(folder):
            found = []  # left by an SR that was destroyed, or by a crash in this function
    except OSError as failed:
        raise SmError(f"{folder}: {failed.strerror}", name=error) from failed
    if found:
        raise SrExists(f"{folder} is not empty: {', '.join(found[:5])}")
    DirectoryStore(folder, identity(folder), ()).write_record(SR_RECORD, mark(sr_uuid))


def _records(folder: Path) -> list[str]:
    names = [path.name for path in (folder / RECORDS).iterdir()]
    return [name for name in names if not name.startswith(TEMPORARY_PREFIX)]


def require(folder: Path, sr_uuid: str) -> None:
    """Raise `SrUnavailable` unless the folder is there and holds this SR, or says nothing."""
    if not folder.is_dir():
        raise SrUnavailable(f"{folder} is not a folder")
    present = holds(folder)
    if present not in (None, sr_uuid):
        raise SrUnavailable(f"{folder} holds SR {present}, not {sr_uuid}")


def require_writable(folder: Path, host_uuid: str) -> None:
    """Raise unless files can be made and have two names, without which no snapshot is possible."""
    first = folder / f"{TEMPORARY_PREFIX}test-{host_uuid}"
    second = first.with_name(f"{first.name}-link")
    try:
        first.write_bytes(b"")
    except OSError as failed:
        raise SmError(f"{folder}: {failed.strerror}", name="SharedFileSystemNoWrite") from failed
    try:
        second.unlink(missing_ok=True)
        os.link(first, second)
    except OSError as failed:
        raise SrUnavailable(
            f"{folder} does not support hard links ({failed.strerror}), which snapshots need;"
            " use another file system or export"
        ) from failed
    finally:
        second.unlink(missing_ok=True)
        first.unlink(missing_ok=True)
