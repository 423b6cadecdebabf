"""Changes to files and folders that survive a power cut once the call has returned.

A file is written whole under a temporary name, synced, renamed, and its folder synced; so a reader
sees the old content or the new, never a part. A temporary name tells who writes, so what a writer
left that was killed is known, and goes with the next file that is written beside it.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from sm.owner import boot_id, start_time

TEMPORARY_PREFIX = ".new-"
"""Names that begin so are unfinished; nothing refers to them."""

MOST_BYTES = 1 << 20
"""Of a file that says something about an SR, a disk or a process. The longest take a few KiB."""

_WRITER = re.compile(r"\.new-([0-9a-f]{8})\.(\d{1,10})\.(\d{1,20})\.\d+-.*", re.DOTALL)
"""Boot, process, its start and a number: see `_temporary`."""

_numbers = itertools.count(1)


class BadFile(ValueError):
    """No regular file of a bounded length, or none that can be read."""


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of `most` bytes at most, without following a link.

    Raises FileNotFoundError, and `BadFile` for all else. A pipe or device that has the name makes
    nobody wait.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadFile(f"{_kind(path)}: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadFile(_kind(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(most + 1)
    except OSError as error:
        raise BadFile(str(error.strerror)) from error
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise BadFile(f"longer than {most} bytes")
    return content


def _kind(path: Path) -> str:
    """What has the name, in words."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return "unreadable"
    kinds = {stat.S_IFREG: "a file", stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def sync_file(path: Path) -> None:
    """Flush the data and metadata of `path` (file or block device) to the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush the names in folder `path`, so that a rename or removal in it lasts."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(
    path: Path,
    content: bytes,
    *,
    exclusive: bool = False,
    mode: int = 0o644,
    sync: bool = True,
    tidy: bool = True,
) -> None:
    """Give `path` this content, all or nothing.

    With `exclusive`, a file that another process made first is kept as it is. Without `sync` a
    power cut may undo it. `tidy`: remove what killed writers left in the folder, which is one of
    this host alone.
    """
    temporary = _temporary(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if exclusive:
            with suppress(FileExistsError):
                os.link(temporary, path)
            temporary.unlink()
        else:
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if tidy:
        for left in left_by_killed(path.parent):
            left.unlink(missing_ok=True)
    if sync:
        sync_folder(path.parent)


def left_by_killed(folder: Path) -> list[Path]:
    """What writers left in `folder` under temporary names that have ended.

    Those of another boot count as well: of an earlier one, or of a host that shares the folder.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(TEMPORARY_PREFIX)]
    return [folder / name for name in sorted(names) if _writer_ended(name)]


def _temporary(path: Path) -> Path:
    """A name that nobody else uses, which tells who does; two threads have two."""
    pid = os.getpid()
    writer = f"{boot_id()[:8]}.{pid}.{start_time(pid) or 0}.{next(_numbers)}"
    return path.with_name(f"{TEMPORARY_PREFIX}{writer}-{path.name}")


def _writer_ended(name: str) -> bool:
    """Whether this is the temporary name of a writer that is no more."""
    found = _WRITER.fullmatch(name)
    if found is None:
        return False
    boot, pid, started = found.groups()
    return boot != boot_id()[:8] or start_time(int(pid)) != int(started)


def remove(path: Path) -> None:
    """Remove a file for good; it may be gone already."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def rename(old: Path, new: Path) -> None:
    """Give `old` the name `new` in the same folder, replacing what had it, for good."""
    old.replace(new)
    sync_folder(new.parent)
