"""A command in a process of its own that is killed, or whose call fails, at the N-th step.

Steps are what Python's audit events tell of (renames, links, removals, truncations, files opened
for writing, processes started) and the journaled steps of the product. The child is a fork of the
test, so that it starts at once.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from sm.cli.main import main
from sm.journal import Journal

CALLS = frozenset(
    {"os.rename", "os.remove", "os.link", "os.truncate", "os.mkdir", "subprocess.Popen"}
)
WRITING = os.O_WRONLY | os.O_RDWR
BROKEN = 70
"""Exit status of a child that ended with an exception which no user should ever see."""


@dataclass(frozen=True)
class Fault:
    """What happens at the step `at`: a kill, or an error with the number `error`."""

    at: int
    error: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a command ended; `document` is what it printed, None when it was killed."""

    status: int
    document: Any = None

    @property
    def done(self) -> bool:
        """Whether it says that it did what it was told."""
        return self.status == 0

    @property
    def killed(self) -> bool:
        """Whether it was killed."""
        return self.status == -signal.SIGKILL

    @property
    def code(self) -> str:
        """The name of the error of a refusal."""
        return str(self.document["error"]["name"]) if self.document else ""


def command(
    environment: dict[str, str], arguments: tuple[str, ...], fault: Fault | None
) -> Outcome:
    """Run `sm --json` with a fault."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run(environment, arguments, fault, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read().decode()
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended != BROKEN, text
    return Outcome(ended, json.loads(text) if ended >= 0 and text else None)


def _run(
    environment: dict[str, str], arguments: tuple[str, ...], fault: Fault | None, writing: int
) -> None:
    status = BROKEN
    try:
        os.environ.update(environment)
        if fault is not None:
            _arm(fault)
        with redirect_stdout(io.StringIO()) as output:
            status = main(("--json", *arguments))
        said = output.getvalue()
    except BaseException:  # noqa: BLE001 - whatever it is, the test must hear of it
        said = traceback.format_exc()
    finally:
        os.write(writing, said.encode())
        os._exit(status)


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
