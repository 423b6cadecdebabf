"""A folder for sockets whose paths are short enough for the kernel."""

from __future__ import annotations

import hashlib
import os
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
    """`wanted`, or when that is too deep, a private folder that stands for it; made if missing."""
    folder = wanted
    if len(os.fsencode(wanted)) + 1 + NAME_BYTES > LONGEST:
        digest = hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]
        folder = Path(f"/tmp/sm-{os.geteuid()}-{digest}")  # noqa: S108 - owner and mode are checked
    new = folder != wanted and not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.geteuid():
        raise SmError(f"{folder} belongs to somebody else; remove it")
    if new:
        with suppress(FileExistsError):  # somebody else has made it at the same time
            (folder / STANDS_FOR).symlink_to(wanted)
    return folder
