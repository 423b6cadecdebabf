"""Changes to files and folders that survive a power cut once the call has returned.

A file is written whole under a temporary name, synced, renamed, and its folder synced; so a reader
sees the old content or the new, never a part.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

TEMPORARY_PREFIX = ".new-"
"""Names that begin so are unfinished; nothing refers to them."""


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


def write_file(path: Path, content: bytes, *, exclusive: bool = False, mode: int = 0o644) -> None:
    """Give `path` this content, all or nothing.

    With `exclusive`, a file that another process made first is kept as it is.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
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
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file for good; it may be gone already."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def rename(old: Path, new: Path) -> None:
    """Give `old` the name `new` in the same folder, replacing what had it, for good."""
    old.replace(new)
    sync_folder(new.parent)
