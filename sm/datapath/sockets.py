"""A folder for sockets whose paths are short enough for the kernel."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sm.errors import SmError

LONGEST = 107
"""Bytes of a socket's path (unix(7)), for us as for every client."""

NAME_BYTES = 48
"""Kept for the name of a socket: a UUID and a suffix."""

STANDS_FOR = ".stands-for"
"""A link to what a folder stands for: whoever finds the folder can tell whose it is."""


def socket_folder(wanted: Path) -> Path:
    """`wanted`, or when that is too deep, a private folder that stands for it; made if missing.

    Raises `SmError` when it is somebody else's, or anybody may put something there.
    """
    folder = _place(wanted)
    new = folder != wanted and not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise SmError(f"{folder} belongs to somebody else; remove it")
    others = stat.S_IWOTH if folder == wanted else stat.S_IRWXO
    if status.st_mode & others:
        raise SmError(f"{folder} is open to everybody; take that from it: chmod o= {folder}")
    if new:
        with suppress(FileExistsError):  # somebody else has made it at the same time
            (folder / STANDS_FOR).symlink_to(wanted)
    return folder


def existing_folder(wanted: Path) -> Path | None:
    """What `socket_folder` gave, if it is there now; nothing is made."""
    return socket_folder(wanted) if os.path.lexists(_place(wanted)) else None


def release_folder(wanted: Path, is_needed: Callable[[], bool]) -> None:
    """Remove the folder that stands for `wanted`, if there is one, it is empty and not needed.

    Whoever needs it says so before asking for its path, and binds a socket much later. So one who
    begins in this moment is either seen by the second question, or makes the folder himself.
    """
    folder = _place(wanted)
    if folder == wanted or is_needed():
        return
    with suppress(OSError):  # it is not there, or sockets are
        if set(os.listdir(folder)) <= {STANDS_FOR}:  # noqa: PTH208 - only the names
            (folder / STANDS_FOR).unlink(missing_ok=True)
            folder.rmdir()
    if is_needed():
        socket_folder(wanted)


def _place(wanted: Path) -> Path:
    if len(os.fsencode(wanted)) + 1 + NAME_BYTES <= LONGEST:
        return wanted
    digest = hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]
    return Path(f"/tmp/sm-{os.geteuid()}-{digest}")  # noqa: S108 - owner and mode are checked
