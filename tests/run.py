"""Run the tier of the tests that SM_TIER names, its parts side by side: `python -m tests.run`.

Arguments are pytest's, for every part. What the tests of files say is shown at once; what a
guest says is shown when that part has ended. The exit status is the first of a part that is not
zero. docs/contributing.md tells what each tier proves.
"""

from __future__ import annotations

import compileall
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from tests.support.memory import memory_folder
from tests.support.tiers import ROOT, SEED, TIER, Tier

PYTEST = (sys.executable, "-m", "pytest")
GUESTS = (sys.executable, "-m", "tests.support.uml.run_suite")
FILES = (*PYTEST, "-n", "auto", "--dist", "worksteal", f"--hypothesis-seed={SEED}")

SHARED_GROUP = "tests/lvm/outside/soak_shared_group.py"

STOP_SECONDS = 30
"""What a part that is told to stop may take to clean up."""

ROOM_MIB = 8192
"""In memory, for the files of all tests that run at the same time; else they are on the disk."""


@dataclass(frozen=True)
class Part:
    """Some of a tier's tests, run by one process; `beside`: while the part before it still runs."""

    name: str
    command: Sequence[str]
    beside: bool = False


PARTS = {
    Tier.TEST: (
        Part("volumes", (*GUESTS, "tests/lvm")),
        Part("files", FILES),
    ),
    Tier.WORLD: (
        Part("packages and services", (*FILES, "-m", "world")),
        Part("volumes, servers", (*GUESTS, "tests/lvm"), beside=True),
        Part("several hosts, power", (*GUESTS, "tests/lvm/outside")),
    ),
    Tier.SOAK: (
        Part("one storage for all", (*PYTEST, "-s", "tests/stress", SHARED_GROUP)),
        Part("files", (*FILES, "-rP", "--ignore=tests/stress")),
        Part("volumes", (*GUESTS, "-s"), beside=True),
    ),
}


class Running:
    """A part at work; what it says is kept in `output`, unless it may speak at once."""

    def __init__(self, part: Part, arguments: Sequence[str], output: IO[bytes] | None) -> None:
        self._part = part
        self._output = output
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [*part.command, *arguments],
            cwd=ROOT,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
        )

    def end(self) -> int:
        """Wait for its end, and show what it said; returns its status."""
        status = self._process.wait()
        if self._output is not None:
            print(f"\n{self._part.name}:", flush=True)
            self._output.seek(0)
            shutil.copyfileobj(self._output, sys.stdout.buffer)
        print(f"{self._part.name}: {time.monotonic() - self._began:.0f} s", flush=True)
        return status

    def stop(self) -> None:
        """Have it clean up and end."""
        self._process.send_signal(signal.SIGINT)

    def stopped(self) -> None:
        """Wait for that; end it by force if it takes too long."""
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def run(parts: Sequence[Part], arguments: Sequence[str]) -> int:
    """Run parts, each after those before it have ended or beside the last of them."""
    running: list[Running] = []
    statuses = []
    with ExitStack() as stack:
        stack.callback(_stop, running)
        for part in parts:
            while running and not part.beside:
                statuses.append(running[0].end())
                del running[0]
            output = stack.enter_context(tempfile.TemporaryFile()) if running else None
            running.append(Running(part, arguments, output))
        while running:
            statuses.append(running[0].end())
            del running[0]
    return next(filter(None, statuses), 0)


def _stop(running: Sequence[Running]) -> None:
    """End all parts that still run, because we are told to end."""
    for part in running:
        part.stop()
    for part in running:
        part.stopped()


def main() -> int:
    """Run the tier; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # Also where a shell has started us in the background, which has it ignored by all of us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= {"SM_TIER": TIER.value, "SM_SEED": str(SEED)}
    # The tests start thousands of processes, each of which would compile all that it imports.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(ROOT / "sm", quiet=1)
    # The other tiers are run on the machine's disk, as its users do.
    folder = memory_folder(ROOM_MIB) if TIER is Tier.TEST else None
    if folder is not None:
        os.environ["TMPDIR"] = str(folder)
    print(f"SM_SEED={SEED} repeats this sample; files are in {tempfile.gettempdir()}", flush=True)
    return run(PARTS[TIER], sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
