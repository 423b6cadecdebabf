"""Run a command in a guest: `python -m tests.support.uml [options] -- command...`.

Exit status: the command's; 124 when the deadline passed; 125 when no guest can be started, or it
ended before the command did.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.support.uml.guest import Ended, Guest, How
from tests.support.uml.setup import CannotRun, Setup

LATE = 124
FAILED = 125


def main() -> int:
    """Run what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.uml", description=__doc__)
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")
    add = parser.add_argument
    add("--disk", type=Path, action="append", default=[], help="a file that becomes /dev/ubda, ...")
    add("--share", type=Path, action="append", default=[], help="a folder that is shared, too")
    add("--module", action="append", default=[], help="load one more kernel module")
    add("--memory", type=int, default=Setup.memory_mib, help="MiB; its /tmp is in there, too")
    add("--deadline", type=float, default=Setup.deadline_seconds, help="seconds, with the start")
    add("--cpu", type=int, default=Setup.cpu, help="its own among those that may be used, from 0")
    add("--folder", type=Path, default=Path.cwd(), help="where the command runs")
    add("--state", type=Path, default=Setup.state, help="where the guest's own folder is made")
    given = parser.parse_args()
    setup = Setup(
        disks=tuple(given.disk),
        shares=tuple(given.share),
        modules=tuple(given.module),
        memory_mib=given.memory,
        deadline_seconds=given.deadline,
        cpu=given.cpu,
        folder=given.folder,
        state=given.state,
    )
    return status_of(given.command, setup)


def status_of(command: list[str], setup: Setup) -> int:
    """Run the command with our standard output and error for its own; returns the exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        with Guest(command, setup, sys.stdout.buffer, sys.stderr.buffer) as guest:
            ended = guest.wait()
    except CannotRun as error:
        print(error, file=sys.stderr)
        return FAILED
    return _told(ended)


def _told(ended: Ended) -> int:
    if ended.status is not None:
        return ended.status
    print(ended, file=sys.stderr)
    return LATE if ended.how is How.DEADLINE else FAILED


if __name__ == "__main__":
    sys.exit(main())
