"""What outlives the tests that made it: processes, mounts, disks, and folders of sockets."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from sm.block.mounts import TABLE, parse_table
from sm.datapath.sockets import STANDS_FOR
from tests.support.lvm.loop import detach
from tests.support.patience import patient
from tests.support.session import VARIABLE, Session

WAIT_SECONDS = patient(10.0)
PROC = Path("/proc")
KEEPER = b"tests/support/uml/keeper.py"
"""In the command line of a guest's keeper, which ends the guest when it is told to end."""

DELETED = " (deleted)"
SOCKETS = Path("/tmp")

_seen: set[str] = set()


def end_processes(folder: str) -> None:
    """Kill every process that was started with `folder` in its command line; none is left then."""
    _kill(process for process in _processes() if os.fsencode(folder) in _file(process, "cmdline"))


def end_new_processes(folder: str) -> None:
    """The same after each of many tests: only processes are looked at that were not there before.

    That is a tenth of the work. What it misses, because a number was used again, the session finds.
    """
    here = {process.name for process in _processes()}
    fresh = here - _seen
    _seen.clear()
    _seen.update(here)
    words = os.fsencode(folder)
    _kill(PROC / pid for pid in fresh if words in _file(PROC / pid, "cmdline"))


def remove(session: Session, spared: int) -> list[str]:
    """Remove all that bears the mark of a session, or lies below its folder; says what that was.

    `spared`: the process that is not to be ended. Folders of sockets are not told of: the product
    keeps them, as it keeps its folders below /run.
    """
    told = _end_marked(session, spared)
    told += _unmount(session.folder)
    told += _detach(session.folder)
    _remove_socket_folders(session.folder)
    return told


def remove_dead(session: Session) -> list[str]:
    """The same for a session whose own process was killed, and its folder as well."""
    told = remove(session, os.getpid())
    if session.folder.is_dir():
        told.append(f"folder {session.folder}")
        shutil.rmtree(session.folder)
    session.end()
    return told or ["nothing but its mark"]


# Processes


def _processes() -> Iterator[Path]:
    """All but this one."""
    here = str(os.getpid())
    return (PROC / name for name in os.listdir(PROC) if name.isdigit() and name != here)  # noqa: PTH208 - fast


def _file(process: Path, name: str) -> bytes:
    """A file of a process; empty when that has ended, or is none of ours."""
    try:
        return (process / name).read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _end_marked(session: Session, spared: int) -> list[str]:
    """End the processes of a session; each is told of with the test that started it."""
    told: list[str] = []
    while found := [each for each in _marked(session) if each.name != str(spared)]:
        told += [_told(process) for process in found]
        keepers = [process for process in found if KEEPER in _file(process, "cmdline")]
        _signal(keepers, signal.SIGTERM)
        _wait(keepers)
        _kill(iter(found))
    return told


def _marked(session: Session) -> list[Path]:
    """The living processes that are of a session."""
    return [process for process in _processes() if _is_of(process, session)]


def _is_of(process: Path, session: Session) -> bool:
    """Whether a process has its mark, or that of a session within it, or the mark's file open."""
    environment = _file(process, "environ").split(b"\0")
    if f"{VARIABLE}={session.mark}".encode() in environment or _holds(process, session.mark):
        return True
    tested = any(each.startswith(VARIABLE.encode()) for each in environment)
    return tested and os.fsencode(session.folder) + b"/" in _file(process, "cmdline")


def _holds(process: Path, file: Path) -> bool:
    """Whether a process has a file open."""
    try:
        return any(
            os.readlink(entry.path) == str(file)  # noqa: PTH115 - of many
            for entry in os.scandir(process / "fd")
        )
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def _told(process: Path) -> str:
    """A process and the test in which it was started, as far as they can be told."""
    words = _file(process, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
    test = next(
        (
            entry.partition(b"=")[2].decode(errors="replace")
            for entry in _file(process, "environ").split(b"\0")
            if entry.startswith(b"PYTEST_CURRENT_TEST=")
        ),
        "a test that is not known",
    )
    return f"process {process.name} of {test}: {words[:300]}"


def _kill(processes: Iterator[Path]) -> None:
    """End processes at once, and wait until they have."""
    killed = list(processes)
    _signal(killed, signal.SIGKILL)
    _wait(killed)


def _signal(processes: list[Path], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(int(process.name), number)
        except ProcessLookupError:
            continue


def _wait(ended: list[Path]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while any(map(_has_files, ended)) and time.monotonic() < deadline:
        time.sleep(0.01)


def _has_files(process: Path) -> bool:
    """Whether a process that was killed may still have files open."""
    try:
        return b") Z" not in (process / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


# Mounts and disks


def _unmount(folder: Path) -> list[str]:
    """Unmount what is mounted below a folder, the last first."""
    told = []
    for mount in reversed(parse_table(TABLE.read_bytes())):
        if mount.folder.is_relative_to(folder):
            told.append(f"mount {mount.folder} of {mount.source} ({mount.type})")
            # Lazily: whoever has a file open there is none of ours.
            subprocess.run(["umount", "-l", "--", mount.folder], check=True)
    return told


def _detach(folder: Path) -> list[str]:
    """Detach the loop devices of files below a folder, with all that is mapped onto them."""
    told = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = Path(entry.read_text().rstrip("\n").removesuffix(DELETED))
        except OSError:  # it was detached meanwhile
            continue
        if file.is_relative_to(folder):
            device = Path("/dev", entry.parents[1].name)
            told.append(f"{device} of {file}")
            detach(device)
    return told


# Folders of sockets


def _remove_socket_folders(folder: Path) -> None:
    """Remove the folders that stand for ones below a folder, which were too deep for sockets."""
    for found in SOCKETS.glob("sm-*-*"):
        link = found / STANDS_FOR
        try:
            status = found.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            if link.readlink().is_relative_to(folder):
                shutil.rmtree(found)
        except (FileNotFoundError, PermissionError):
            continue
