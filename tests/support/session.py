"""One run of the tests, and how all that it makes is told from what others make.

Its mark is the name of a file. Processes inherit the mark in a variable; forks that start no
other program hold the file open. The file says who runs the tests, and in which folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sm.owner import Owner, boot_id

VARIABLE = "SM_TEST_SESSION"
PLACE = Path(os.environ.get("SM_TEST_SESSIONS", "/tmp"))
"""Where the marks of all sessions are; others for tests of sessions, which nobody may end."""

PREFIX = "sm-test-session-"

_held: list[int] = []


@dataclass(frozen=True)
class Session:
    """`folder` holds what the tests write."""

    mark: Path
    owner: Owner
    folder: Path

    @classmethod
    def begin(cls, folder: Path) -> Self:
        """This process begins one; what it starts from now on bears its mark."""
        owner = Owner.this_process(_world(), "tests")
        descriptor, name = tempfile.mkstemp(prefix=PREFIX, dir=PLACE)
        os.write(descriptor, f"{owner.text}\n{folder}\n".encode())
        _held.append(descriptor)
        os.environ[VARIABLE] = name
        return cls(Path(name), owner, folder)

    @staticmethod
    def join() -> None:
        """This process belongs to the session of the one that started it; so do its forks."""
        _held.append(os.open(os.environ[VARIABLE], os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def read(cls, mark: Path) -> Self | None:
        """The session of a mark; None for what is no mark, or not yet, or no longer."""
        try:
            if mark.is_symlink() or mark.stat().st_uid != os.geteuid():
                return None
            text, _, folder = mark.read_text().rstrip("\n").partition("\n")
            return cls(mark, Owner.parse(text), Path(folder))
        except (FileNotFoundError, ValueError):
            return None

    @property
    def dead(self) -> bool:
        """Whether the process that began it is known to be gone."""
        return self.owner.ended(_world())

    def end(self) -> None:
        """Nothing is left that bears its mark."""
        self.mark.unlink(missing_ok=True)


def all_sessions() -> Iterator[Session]:
    """Those of this user that have not come to their end, dead and alive."""
    for mark in sorted(PLACE.glob(f"{PREFIX}*")):
        session = Session.read(mark)
        if session is not None:
            yield session


def _world() -> str:
    """Where process numbers mean what they mean here: this boot, and this namespace."""
    return f"{boot_id()}/{Path('/proc/self/ns/pid').readlink()}"
