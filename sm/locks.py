"""Locks between processes of one host. Held for short: never over a copy or a remote call.

Order, outermost first: `collector`, `vdi`, `sr`. A thread may take again what it holds, so that
what it calls need not know. A lock file is never removed, or two processes
could hold "the same" lock on two files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident

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
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name)
        note = folder / f"{name}.owner"
        wait = self._seconds if seconds is None else seconds
        try:
            lock.acquire(timeout=wait, poll_interval=0.02)
        except Timeout as error:
            raise LockFailed(f"{space} {name} is held by {self._holder(note)}") from error
        try:
            note.write_text(Owner.this_process(self._host, operation).text, encoding="utf-8")
            self._held.add(identity)
            yield
        finally:
            self._held.discard(identity)
            lock.release()

    @staticmethod
    def _holder(note: Path) -> str:
        try:
            return str(Owner.parse(note.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError):
            return "another process"
