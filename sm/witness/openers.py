"""Whether a program that is none of ours has an image open to write to it.

The kernel tells by a lease: one for reading is given for a local file that nobody has open for
writing (fcntl(2), F_SETLEASE). Network file systems give none without asking their server, which
means nothing there; then only a process of this host that is found counts.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sm.block.mounts import TABLE, parse_table
from sm.errors import VdiInUse

REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p"})
"""File systems on which a lease may be refused though nobody has the file open."""

PROC = Path("/proc")


def require_unwritten(path: Path) -> None:
    """Raise `VdiInUse` while somebody has the file open for writing, by name if it is known.

    Devices are passed over: what has them open is told by whoever maps them.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if not regular or not _is_refused(descriptor):
            return
        found = next(_writers(path.resolve()), None)
        if found is not None:
            raise VdiInUse(f"{path.name} is open for writing in {found}; end that first")
        if _file_system(path) not in REMOTE:
            raise VdiInUse(f"{path.name} is open for writing in a process that cannot be seen")
    finally:
        os.close(descriptor)


def _is_refused(descriptor: int) -> bool:
    """Whether a lease is refused because of a writer. Where there are none, nobody can tell."""
    try:
        # If somebody opens the file now, we are told so: by a signal that is ignored.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _writers(path: Path) -> Iterator[str]:
    """The processes of this host that have a file open for writing, as far as we may look."""
    wanted = str(path)
    for process in PROC.iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            for entry in (process / "fd").iterdir():
                with suppress(OSError):
                    # The link alone: the file of another one may be on a server that is gone.
                    if str(entry.readlink()) == wanted and _writes(process, entry.name):
                        name = (process / "comm").read_text(encoding="utf-8", errors="replace")
                        yield f"process {process.name} ({name.strip()})"


def _writes(process: Path, number: str) -> bool:
    """Whether an open file may be written to, by its flags in /proc/PID/fdinfo (proc(5))."""
    for line in (process / "fdinfo" / number).read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "flags":
            return bool(int(value, 8) & (os.O_WRONLY | os.O_RDWR))
    return False


def _file_system(path: Path) -> str:
    """The type of the file system that a file is on, as the kernel's table of mounts says."""
    place = path.resolve()
    on = [mount for mount in parse_table(TABLE.read_bytes()) if place.is_relative_to(mount.folder)]
    return max(reversed(on), key=lambda mount: len(str(mount.folder))).type if on else ""
