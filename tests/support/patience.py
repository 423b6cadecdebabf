"""How long tests wait: one factor for all of them, and one way to wait for an event.

`SM_TEST_PATIENCE` is the factor, a number of at least 1. Where it is not set, it is taken from what
the machine gives when the first process of the tests starts, and handed on to all others. A guest
is a machine of its own and measures for itself.

A deadline here only ends a hang: it costs time when a test is about to fail, and proves nothing.
"""

from __future__ import annotations

import inspect
import math
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

SETTING = "SM_TEST_PATIENCE"
MEASURED = "SM_TEST_PATIENCE_MEASURED"
"""What was measured, and on which machine: for the processes that the tests start."""

LEAST, MOST = 4.0, 20.0
"""The tests themselves are a load, which comes after the measurement: two or more for each CPU."""

REFERENCE_SECONDS = 0.06
"""What `_work` took on a quiet machine: half of it starts of processes, half of it Python."""

LOOK_SECONDS = 0.01
SECONDS = 60.0

T = TypeVar("T")


def patient(seconds: float) -> float:
    """What is called so many seconds, on this machine."""
    return seconds * FACTOR


def until(condition: Callable[[], T], what: str = "", seconds: float = SECONDS) -> T:
    """Wait until it is true, and return what it gave.

    A failure names `what` did not happen; where that is left out, by the text of the condition.
    """
    deadline = time.monotonic() + patient(seconds)
    while not (found := condition()):
        if time.monotonic() > deadline:
            named = what or inspect.getsource(condition).strip()
            raise AssertionError(f"did not happen in {patient(seconds):.0f} seconds: {named}")
        time.sleep(LOOK_SECONDS)
    return found


def chosen(text: str) -> float:
    """The factor that somebody set."""
    factor = float(text)
    if not (math.isfinite(factor) and factor >= 1):
        raise ValueError(f"{SETTING} is {text}, and must be a number of at least 1")
    return factor


def measured(work_seconds: float, load_for_each_cpu: float) -> float:
    """The factor of a machine on which `_work` took so long, and so many processes wait."""
    slowness = max(1.0, work_seconds / REFERENCE_SECONDS)
    return min(LEAST * slowness * max(1.0, load_for_each_cpu), MOST)


def _work() -> None:
    for _ in range(10):
        subprocess.run(["true"], check=True)
    total = 0
    for number in range(150_000):
        total += number & 7


def _agreed() -> float:
    if SETTING in os.environ:
        return chosen(os.environ[SETTING])
    machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known, _, factor = os.environ.get(MEASURED, "").partition(":")
    if known == machine:
        return float(factor)
    began = time.monotonic()
    _work()
    taken = time.monotonic() - began
    found = measured(taken, os.getloadavg()[0] / (os.cpu_count() or 1))
    os.environ[MEASURED] = f"{machine}:{found:.2f}"
    return found


FACTOR = _agreed()
