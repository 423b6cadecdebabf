"""A call that changes a name or makes a change last fails, or is the last one: in a child.

The functions of `os` that our code calls are replaced there, so all threads are seen, and only what
the product does by itself; what SQLite and tools do is below, see `tests.support.killing`.

A call is known by its place and by how often that was passed before, which does not depend on what
other threads do meanwhile.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sm.cowutil import holes
from tests.support.forked import Note, Prepare, command

CHANGES = (
    *("rename", "replace", "link", "symlink", "unlink", "remove", "rmdir", "mkdir", "mknod"),
    *("truncate", "ftruncate", "fsync", "fdatasync", "pwrite"),
)
"""Of `os`; besides these, an `open` that makes a file, and taking and giving back blocks."""

SENDING = ("send", "sendall", "sendto", "sendmsg")
"""Of a socket; besides these, the start of a process: whatever is asked of others."""

REPOSITORY = Path(__file__).resolve().parents[2]
OWN = ("sm/", "cowutil/", "gc/", "drivers/")
DEPTH = 3
"""So many of our functions say where a call was made: helpers are called from everywhere."""

KILL = 0
"""Instead of an error: the process is killed before the call."""


@dataclass(frozen=True, order=True)
class Call:
    """The call at `place` that is made there as the `occurrence`-th, the first being 1."""

    place: str
    occurrence: int


Step = Callable[[Call], None]
"""Told of a call before it is made; raises what it is to fail with."""


def calls_of(
    environment: dict[str, str], arguments: tuple[str, ...], *, asking: bool = False
) -> list[Call]:
    """All calls of an undisturbed command; with `asking`, those by which it asks others."""

    def prepare(note: Note) -> None:
        _arm(lambda call: note(call.place), asking=asking)

    outcome = command(environment, arguments, prepare)
    assert outcome.done, outcome
    seen: Counter[str] = Counter()
    found = []
    for place in outcome.notes:
        seen[place] += 1
        found.append(Call(place, seen[place]))
    return found


def failing(chosen: Call, error: int, *, lasting: bool = False, asking: bool = False) -> Prepare:
    """What makes a child fail at a call with an error number, or be killed there.

    The child notes that it came there. If it is `lasting`, all later calls fail as well.
    """

    def prepare(note: Note) -> None:
        reached = False

        def step(call: Call) -> None:
            nonlocal reached
            if reached and lasting:
                raise OSError(error, os.strerror(error))
            if call != chosen:
                return
            reached = True
            note(call.place)
            if error == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(error, os.strerror(error))

        _arm(step, asking=asking)

    return prepare


def _arm(step: Step, *, asking: bool) -> None:
    """Have `step` told of each call, by whatever thread, one at a time."""
    lock = threading.Lock()
    seen: Counter[str] = Counter()

    def counted(name: str) -> None:
        with lock:
            place = f"{name} in {_place()}"
            seen[place] += 1
            step(Call(place, seen[place]))

    if asking:
        for name in SENDING:
            setattr(socket.socket, name, _stepping(name, getattr(socket.socket, name), counted))
        starting: Any = subprocess.Popen
        starting.__init__ = _stepping("start", starting.__init__, counted)
        return
    for name in CHANGES:
        setattr(os, name, _stepping(name, getattr(os, name), counted, CHANGING.get(name)))
    os.open = _stepping("open", os.open, counted, _makes)
    holes._fallocate = _stepping("fallocate", holes._fallocate, counted)


def _stepping(
    name: str,
    real: Callable[..., Any],
    counted: Callable[[str], None],
    changes: Callable[..., bool] | None = None,
) -> Any:
    def stepping(*given: Any, **named: Any) -> Any:
        if changes is None or changes(*given, **named):
            counted(name)
        return real(*given, **named)

    return stepping


def _there(path: Any, *given: Any, **named: Any) -> bool:
    """Whether a name is there; without it, nothing can be removed."""
    del given, named
    return os.path.lexists(path)


def _not_there(path: Any, *given: Any, **named: Any) -> bool:
    return not _there(path)


def _makes(path: Any, flags: int, *given: Any, **named: Any) -> bool:
    return bool(flags & os.O_CREAT) and not _there(path)


CHANGING: dict[str, Callable[..., bool]] = {
    "mkdir": _not_there,
    "mknod": _not_there,
    "unlink": _there,
    "remove": _there,
    "rmdir": _there,
}
"""Which calls change anything at all: the system refuses the others whatever the disk does."""


def _place() -> str:
    """Where a call was made, as the innermost of our functions."""
    found: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and len(found) < DEPTH:
        name = _own(frame.f_code.co_filename)
        if name:
            found.append(f"{name}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(found)


@cache
def _own(file: str) -> str:
    """The name of a file of the product, or nothing."""
    path = Path(file)
    name = str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else ""
    return name.removesuffix(".py") if name.startswith(OWN) else ""
