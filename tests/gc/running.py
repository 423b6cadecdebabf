"""Collectors as real processes: started, watched through their status file, told to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sm.gc.state.ledger import FinishedJob, Ledger
from sm.gc.state.status import State, Status
from tests.support.patience import patient
from tests.support.site import Site

GC = (sys.executable, "-m", "sm.gc.daemon")


def status(site: Site, sr: str) -> Status:
    """What the collector of an SR says; stopped where there was none."""
    found = Status.read(site.root / "run", sr)
    return found or Status(sr, "", State.STOPPED, 0.0, 0.0)


def history(site: Site, sr: str) -> list[FinishedJob]:
    """The jobs that have ended, the last one first."""
    return Ledger(site.root / "gc.db").history(sr)


def copying(site: Site, sr: str) -> bool:
    """Whether a job is copying, and has begun with it; qemu-img tells of its progress coarsely."""
    return any(job.bytes_done for job in status(site, sr).jobs)


@contextmanager
def collector(site: Site, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`sm-gc` with these arguments, which is told to end at the end of the block."""
    with subprocess.Popen(
        [*GC, *arguments], env=site.environment, stdin=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(patient(60))


def end(process: subprocess.Popen[bytes]) -> int:
    """Tell a collector to stop, and wait until it is gone; returns its exit status."""
    process.send_signal(signal.SIGTERM)
    return process.wait(patient(60))


def children(pid: int) -> dict[int, str]:
    """The child processes of a process, and their command lines."""
    found = {}
    text = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    for line in text.splitlines():
        child, parent, command = line.split(None, 2)
        if int(parent) == pid:
            found[int(child)] = command
    return found
