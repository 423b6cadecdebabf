"""A file that shows a disk: the kernel's FUSE, mounted by the daemon on an empty file of ours."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sm import process
from sm.datapath.base import DatapathFailed

DEVICE = Path("/dev/fuse")
UNMOUNT_SECONDS = 10.0


def prepare(path: Path) -> None:
    """Make the file that the daemon mounts the disk on; one that is left over is taken.

    `DatapathFailed` where there cannot be such a disk, or where something else is at `path`.
    """
    if os.geteuid() != 0 or not DEVICE.exists():
        raise DatapathFailed(f"showing a disk as a file needs root and {DEVICE}")
    try:
        path.open("xb").close()
    except FileExistsError:
        if is_mounted(path) or path.is_symlink() or not path.is_file() or path.stat().st_size:
            raise DatapathFailed(f"{path} is something else; remove it") from None


def clear(path: Path) -> None:
    """Remove the mount that a killed daemon left, and the file below it."""
    if is_mounted(path):
        process.run(["umount", "-l", str(path)], timeout=UNMOUNT_SECONDS)
    path.unlink(missing_ok=True)


def is_mounted(path: Path) -> bool:
    """Whether something is mounted on `path`; a dead mount answers nothing else (proc(5))."""
    wanted = os.path.abspath(path)  # noqa: PTH100 - without a look at the file, which may be dead
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as mounts:
        return any(_unescaped(line.split(" ")[4]) == wanted for line in mounts)


def _unescaped(name: str) -> str:
    """The kernel writes blanks and backslashes as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)
