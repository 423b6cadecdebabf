"""Work in a fork of the test: it starts at once, and may be prepared for mischief."""

from __future__ import annotations

import gc
import io
import json
import math
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from sm.cli.main import main
from tests.support.patience import patient

BROKEN = 70
"""Exit status of a child that ended with an exception which no user should ever see."""

DEADLINE_SECONDS = math.ceil(patient(120))
"""When a child that hangs is ended."""

Note = Callable[[str], None]
"""Tells the test something of the child, at once: even if the child is killed next."""

Prepare = Callable[[Note], None]


@dataclass(frozen=True)
class Outcome:
    """How a child ended; `document` is what it printed, None when it was killed.

    `notes` is what the child told meanwhile.
    """

    status: int
    document: Any = None
    notes: tuple[str, ...] = ()

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


def command(environment: dict[str, str], arguments: tuple[str, ...], prepare: Prepare) -> Outcome:
    """Run `sm --json` in a child, after `prepare` there."""

    def work(note: Note) -> int:
        prepare(note)
        return main(("--json", *arguments))

    return child(environment, work)


def child(environment: dict[str, str], work: Callable[[Note], int]) -> Outcome:
    """Run `work` in a child with these variables; what it returns is the exit status."""
    output, notes = os.pipe(), os.pipe()
    # What the collector of garbage looks at is copied; the child has little of its own.
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        _run(environment, work, output[1], notes[1])
    gc.unfreeze()
    os.close(output[1])
    os.close(notes[1])
    with os.fdopen(output[0], "rb") as stream, os.fdopen(notes[0], "rb") as told:
        text = stream.read().decode()
        lines = told.read().decode().splitlines()
    _, status = os.waitpid(pid, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended != BROKEN, f"{text}\n{lines}"
    return Outcome(ended, json.loads(text) if ended >= 0 and text else None, tuple(lines))


def _run(environment: dict[str, str], work: Callable[[Note], int], output: int, notes: int) -> None:
    status = BROKEN
    try:
        os.environ.update(environment)
        signal.alarm(DEADLINE_SECONDS)
        with redirect_stdout(io.StringIO()) as printed:
            status = work(lambda text: _tell(notes, text))
        said = printed.getvalue()
    except BaseException:  # noqa: BLE001 - whatever it is, the test must hear of it
        status, said = BROKEN, traceback.format_exc()
    finally:
        os.write(output, said.encode())
        os._exit(status)


def _tell(descriptor: int, text: str) -> None:
    os.write(descriptor, f"{text}\n".encode())
