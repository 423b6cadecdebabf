"""A clock that is wrong arrives in programs, while they run as well; durations are as they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.outside.clock import WrongClock
from tests.support.outside.disk import failing_disk
from tests.support.outside.programs import program

DAY = 86400
YEAR = 365 * DAY

SLACK = 3600
"""Seconds: what no test takes, and far less than the clock is wrong by."""

CLOCKS = """
import json, os, sqlite3, sys, time
from datetime import datetime, timezone

def seen():
    with open(sys.argv[1], "w") as file:
        file.write("x")
    os.utime(sys.argv[2])
    (stored,) = sqlite3.connect(":memory:").execute("SELECT strftime('%s', 'now')").fetchone()
    return {
        "time": time.time(),
        "datetime": datetime.now(timezone.utc).timestamp(),
        "coarse": time.clock_gettime(5),  # CLOCK_REALTIME_COARSE
        "sqlite": float(stored),
        "written": os.stat(sys.argv[1]).st_mtime,
        "touched": os.stat(sys.argv[2]).st_mtime,
        "monotonic": time.monotonic(),
        "boot": time.clock_gettime(time.CLOCK_BOOTTIME),
    }

for line in sys.stdin:
    print(json.dumps(seen()), flush=True)
"""

WALL = ("time", "datetime", "coarse", "sqlite", "written", "touched")


def test_clocks_of_a_process_that_runs(clock: WrongClock, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    touched.touch()
    argv = [sys.executable, "-c", CLOCKS, str(tmp_path / "written"), str(touched)]
    with subprocess.Popen(
        argv,
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for shift in (0, YEAR, -DAY, 0):
            clock.shift(seconds=shift)
            process.stdin.write("\n")
            process.stdin.flush()
            found = json.loads(process.stdout.readline())
            for name in WALL:
                assert abs(found[name] - shift - time.time()) < SLACK, name
            assert abs(found["monotonic"] - time.monotonic()) < SLACK
            assert abs(found["boot"] - time.clock_gettime(time.CLOCK_BOOTTIME)) < SLACK
        process.stdin.close()
        assert process.wait(60) == 0


def test_sleeps_and_waits_are_no_longer(clock: WrongClock) -> None:
    clock.shift(days=365)
    script = (
        "import threading, time; time.sleep(0.1); threading.Event().wait(0.1);"
        "lock = threading.Lock(); lock.acquire(); lock.acquire(timeout=0.1)"
    )
    assert program(clock.environment, sys.executable, "-c", script).returncode == 0


def test_children_and_tools_of_others(clock: WrongClock, tmp_path: Path) -> None:
    clock.shift(days=365)
    told = program(clock.environment, "sh", "-c", "date +%s").stdout
    assert abs(int(told) - YEAR - time.time()) < SLACK
    image = tmp_path / "image"
    made = ("qemu-img", "create", "-f", "qcow2", str(image), "1M")
    assert program(clock.environment, *made).returncode == 0
    kept = ("qemu-img", "snapshot", "-c", "kept", str(image))
    assert program(clock.environment, *kept).returncode == 0
    info = json.loads(program({}, "qemu-img", "info", "--output=json", str(image)).stdout)
    (snapshot,) = info["snapshots"]
    assert abs(snapshot["date-sec"] - YEAR - time.time()) < SLACK


def test_two_kinds_of_fault_at_once(clock: WrongClock, tmp_path: Path) -> None:
    clock.shift(days=365)
    with failing_disk(tmp_path) as disk:
        disk.fill_after(0)
        both = clock.environment | disk.environment
        file = tmp_path / "file"
        assert program(both, "dd", "if=/dev/zero", f"of={file}", "count=1").returncode == 1
        assert abs(file.stat().st_mtime - YEAR - time.time()) < SLACK
