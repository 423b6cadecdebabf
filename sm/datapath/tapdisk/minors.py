"""Minors: numbers that name a VBD on this host, each a marker file (blktap 4.x, no kernel module).

`<folder>/tapdisk-<minor>`. Its number is taken by making the file, with the folder locked (flock);
a tapdisk that attached it holds a lock on it for life. Other programs take minors in the same way,
also between their making of a marker and its lock; so whose a marker is stands in it.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sm.datapath.base import TapdiskFailed
from sm.errors import Busy

MOST = 1 << 14
PATTERN = re.compile(r"tapdisk-([0-9]{1,5})")
LOCK_SECONDS = 10.0
RELEASE_SECONDS = 2.0
POLL_SECONDS = 0.01


class Minors:
    """The markers in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def allocate(self, owner: str) -> int:
        """Take the smallest free minor; a kill in here may leave an empty marker until reboot."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            taken = set(self._taken())
            minor = next((each for each in range(MOST) if each not in taken), None)
            if minor is None:
                raise TapdiskFailed(f"all {MOST} minors are taken; look at {self._folder}")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(self._marker(minor), flags, 0o600)
            try:
                os.write(descriptor, owner.encode())
            finally:
                os.close(descriptor)
            return minor

    def free(self, minor: int) -> None:
        """Give a minor back; nothing happens when it is free. `Busy` while a tapdisk holds it.

        One that was killed lets go of it a moment after it can no longer be told whose it was.
        """
        with self._locked():
            try:
                descriptor = os.open(self._marker(minor), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return
            try:
                if not _lock(descriptor, RELEASE_SECONDS):
                    raise Busy(f"minor {minor} is still attached to a tapdisk")
                self._marker(minor).unlink()
            finally:
                os.close(descriptor)

    def owned(self, owner: str) -> list[int]:
        """The minors that `allocate` gave to `owner`."""
        wanted, found = owner.encode(), []
        for minor in self._taken():
            try:
                if self._marker(minor).read_bytes() == wanted:
                    found.append(minor)
            except (FileNotFoundError, PermissionError):
                continue  # freed in this moment, or somebody else's
        return found

    def _taken(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        names = (PATTERN.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def _marker(self, minor: int) -> Path:
        return self._folder / f"tapdisk-{minor}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not _lock(descriptor, LOCK_SECONDS):
                raise Busy(f"{self._folder} is locked by somebody")
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int, seconds: float) -> bool:
    """Whether the lock could be taken within that time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        else:
            return True
