"""A command in a process of its own that is killed, or whose call fails, at the N-th step.

Steps are what Python's audit events tell of (renames, links, removals, truncations, files opened
for writing, processes started) and the journaled steps of the product.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sm.journal import Journal
from tests.support import forked
from tests.support.forked import Note, Outcome

CALLS = frozenset(
    {"os.rename", "os.remove", "os.link", "os.truncate", "os.mkdir", "subprocess.Popen"}
)
WRITING = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Fault:
    """What happens at the step `at`: a kill, or an error with the number `error`."""

    at: int
    error: int = 0


def command(
    environment: dict[str, str], arguments: tuple[str, ...], fault: Fault | None
) -> Outcome:
    """Run `sm --json` with a fault."""

    def prepare(note: Note) -> None:
        del note
        if fault is not None:
            _arm(fault)

    return forked.command(environment, arguments, prepare)


def _arm(fault: Fault) -> None:
    count = 0
    own = os.getpid()

    def step(can_fail: bool) -> None:
        nonlocal count
        if os.getpid() != own:
            return
        count += 1
        if count != fault.at:
            return
        if not fault.error:
            os.kill(own, signal.SIGKILL)
        if can_fail:
            raise OSError(fault.error, os.strerror(fault.error))

    def heard(event: str, details: tuple[Any, ...]) -> None:
        if event in CALLS or (event == "open" and details[2] is not None and details[2] & WRITING):
            step(can_fail=True)

    sys.addaudithook(heard)
    begun: Callable[..., None] = Journal.__init__

    def observed(self: Journal, *given: Any, **named: Any) -> None:
        begun(self, *given, **named)
        self.observe = lambda _: step(can_fail=False)

    Journal.__init__ = observed  # type: ignore[method-assign]
