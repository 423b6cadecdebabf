"""Locks between processes of one host. Held for short: never over a copy or a remote call.

Order, outermost first: `collector`, `vdi`, `sr`. A thread may take again what it holds, so that
what it calls need not know. A lock file is never removed, or two processes
could hold "the same" lock on two files.

Who may open a lock may hold it for ever, so nobody else may: folders are 0700 and files 0600. The
folder may be given to a group (chmod g+rwx), whose members may then take all locks in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident

from sm.durable import read_file
from sm.errors import LockFailed
from sm.owner import Owner


class Locks:
    """The locks below one folder. `seconds` bounds each wait unless a call says otherwise."""

    def __init__(self, folder: Path, host: str, seconds: float) -> None:
        self._folder = folder
        self._host = host
        self._seconds = seconds
        self._held: set[tuple[int, str, str]] = set()

    @contextmanager
    def hold(
        self, space: str, name: str, operation: str, *, seconds: float | None = None
    ) -> Iterator[None]:
        """Hold the lock `name` of name space `space` for the block.

        Raises `LockFailed`, naming the holder, when it is not free within `seconds`.
        """
        # filelock takes 40 ms to import, and driver information needs no lock.
        from filelock import FileLock, Timeout  # noqa: PLC0415

        identity = (get_ident(), space, name)
        if identity in self._held:
            yield
            return
        folder = self._folder / space
        mode = _private(folder, group=_private(self._folder, group=False) & stat.S_IWGRP != 0)
        lock = FileLock(folder / name, mode=mode)
        note = folder / f"{name}.owner"
        wait = self._seconds if seconds is None else seconds
        try:
            lock.acquire(timeout=wait, poll_interval=0.02)
        except Timeout as error:
            raise LockFailed(f"{space} {name} is held by {self._holder(note)}") from error
        try:
            _write(note, Owner.this_process(self._host, operation).text, mode)
            self._held.add(identity)
            yield
        finally:
            self._held.discard(identity)
            lock.release()

    @staticmethod
    def _holder(note: Path) -> str:
        try:
            return str(Owner.parse(read_file(note).decode("utf-8")))
        except (FileNotFoundError, ValueError):
            return "another process"


def _private(folder: Path, *, group: bool) -> int:
    """Make a folder that only we may use, or its group where `group` or its mode says so.

    Returns the mode for files in it. One that an earlier version made is closed to others.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    mode = stat.S_IMODE(folder.stat().st_mode)
    group = group or mode & stat.S_IWGRP != 0
    wanted = mode & ~stat.S_IRWXO
    wanted = wanted | stat.S_IRWXG if group else wanted & ~stat.S_IRWXG
    if mode != wanted:
        with suppress(PermissionError):  # it is of somebody else who may do so
            folder.chmod(wanted)
    return 0o660 if group else 0o600


def _write(note: Path, text: str, mode: int) -> None:
    """Replace what a note says; it is read by whoever waits for the lock."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(note, flags, mode), "w", encoding="utf-8") as file:
        with suppress(PermissionError):  # another member of the group made it, with this mode
            os.fchmod(file.fileno(), mode)
        file.write(text)
