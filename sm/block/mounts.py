"""Mounting and unmounting; what is mounted is asked of the kernel each time."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sm import process
from sm.errors import SmError, SrInUse, ToolFailed

log = logging.getLogger(__name__)

MOUNT_SECONDS = 120.0
TABLE = Path("/proc/self/mountinfo")
FOLDER_MODE = 0o700

_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the kernel's table; `source` as it was given to mount."""

    folder: Path
    type: str
    source: str


def parse_table(table: bytes) -> list[Mount]:
    """The mounts of a `mountinfo` (proc(5)), oldest first; a later one covers an earlier one."""
    found = []
    for line in table.splitlines():
        before, separator, after = line.partition(b" - ")
        fields, rest = before.split(b" "), after.split(b" ")
        if separator and len(fields) > 4 and len(rest) > 1:
            found.append(Mount(Path(_plain(fields[4])), _plain(rest[0]), _plain(rest[1])))
    return found


def _plain(field: bytes) -> str:
    """Blanks and the like are written as a backslash and three octal digits."""
    return os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), field))


def mounted_at(folder: Path) -> Mount | None:
    """What is mounted on exactly this folder, uppermost first."""
    table = reversed(parse_table(TABLE.read_bytes()))
    return next((mount for mount in table if mount.folder == folder.absolute()), None)


def mount_command(source: str, folder: Path, fs_type: str, options: Sequence[str]) -> list[str]:
    """The command that mounts; no helper takes anything of it for an option of its own."""
    return ["mount", "-t", fs_type, "-o", ",".join(options), "--", source, str(folder)]


def mount(source: str, folder: Path, fs_type: str, options: Sequence[str]) -> None:
    """Mount unless the same source is mounted there; makes the folder, closed to others.

    Raises `NFSAttached` when something else is mounted there, and `ToolFailed`.
    """
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    present = mounted_at(folder)
    if present is not None:
        if _same(present.source, source):
            return
        raise SmError(f"{present.source} is mounted on {folder}", name="NFSAttached")
    folder.chmod(FOLDER_MODE)
    process.run(mount_command(source, folder, fs_type, options), timeout=MOUNT_SECONDS)


def _same(one: str, other: str) -> bool:
    """Whether two sources are one; a device may have several names."""
    if one == other:
        return True
    try:
        first, second = Path(one).stat(), Path(other).stat()
    except OSError:
        return False
    return stat.S_ISBLK(first.st_mode) and first.st_rdev == second.st_rdev


def unmount(folder: Path, error: str) -> None:
    """Unmount a folder and remove it; nothing needs to be mounted or there.

    Raises `SrInUse` while somebody uses it, and `error` when it fails otherwise. Never lazily:
    a mount that is out of sight and still written to is worse than one that is there.
    """
    while mounted_at(folder) is not None:
        try:
            process.run(["umount", "--", str(folder)], timeout=MOUNT_SECONDS)
        except ToolFailed as failed:
            if "busy" in failed.stderr:
                raise SrInUse(f"{folder} is in use; 'fuser -vm {folder}' shows by whom") from failed
            raise SmError(failed.detail, name=error) from failed
    try:
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError as failed:
        # Not ours to empty: whatever is below the mount point was put there by others.
        raise SmError(f"{folder}: {failed.strerror}", name="NFSDelete") from failed


@contextmanager
def unmounted_after(folder: Path, error: str) -> Iterator[None]:
    """Whatever is mounted on a folder is unmounted after the block, also where that fails."""
    try:
        yield
    except BaseException:
        with failures_logged(folder):
            unmount(folder, error)
        raise
    unmount(folder, error)


@contextmanager
def failures_logged(folder: Path) -> Iterator[None]:
    """Around what is released because of an error: that one is told, and not what follows."""
    try:
        yield
    except SmError as left:
        log.warning("%s stays mounted: %s", folder, left)
