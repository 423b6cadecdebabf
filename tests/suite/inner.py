"""Runs of pytest inside a test: sessions of their own, which no other session looks at."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.patience import patient

ROOT = Path(__file__).parents[2]
SECONDS = patient(60)


@dataclass(frozen=True)
class Inner:
    """Sessions with their marks, files and tests in one folder."""

    folder: Path

    def start(self, source: str, *options: str) -> subprocess.Popen[str]:
        """Start a run of one file of tests; its output is read from the process."""
        (self.folder / "marks").mkdir(exist_ok=True)
        number = len(list(self.folder.glob("test_inner*.py")))
        file = self.folder / f"test_inner{number}.py"
        file.write_text(source)
        own = {"SM_TEST_SESSIONS": str(self.folder / "marks"), "SM_TEST_READY": str(self.ready)}
        # Its tests are of no tier.
        outer = {name: value for name, value in os.environ.items() if name != "SM_TIER"}
        temporary = self.folder / "files"
        temporary.mkdir(exist_ok=True)
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-c", ROOT / "setup.cfg", "--rootdir", ROOT),
                *("-p", "no:cacheprovider", "-p", "tests.conftest", *options, file),
            ],
            cwd=ROOT,
            env={**outer, **own, "PYTEST_DEBUG_TEMPROOT": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, source: str, *options: str) -> tuple[int, str]:
        """A run to its end; returns its status and what it said."""
        started = self.start(source, *options)
        text, _ = started.communicate(timeout=SECONDS)
        return started.returncode, text

    @property
    def ready(self) -> Path:
        """The file into which a test writes, last of all, what processes it has."""
        return self.folder / "ready"

    def until_ready(self, started: subprocess.Popen[str]) -> list[int]:
        """Wait for it; returns the processes, of which the first is a datapath."""
        deadline = time.monotonic() + SECONDS
        while not self.ready.exists():
            assert started.poll() is None, started.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self.told()

    def told(self) -> list[int]:
        """The processes of a test that has come so far."""
        found = [int(word) for word in self.ready.read_text().split()]
        self.ready.unlink()
        return found

    def marks(self) -> list[Path]:
        """The marks of sessions that have not come to their end."""
        return list((self.folder / "marks").iterdir())


IN_THE_MIDDLE = """
import os, signal, subprocess, time
from pathlib import Path
import pytest
from sm.datapath.choose import Datapaths
from tests.support.site import Site

def test_in_the_middle(tmp_path):
    site = Site(tmp_path / ("long" * 20))
    sr = site.create_sr()
    site.activate(site.create_vdi(sr, "qcow2"))
    (served,) = Datapaths(site.repository(sr).settings).served()
    detached = subprocess.Popen(["setsid", "sleep", "1000"])
    fork = os.fork()
    if fork == 0:
        time.sleep(1000)
    MORE
    partial = Path(os.environ["SM_TEST_READY"] + ".new")
    partial.write_text(f"{served.endpoint.pid} {detached.pid} {fork}")
    partial.rename(os.environ["SM_TEST_READY"])

    def ended():
        detached.kill(), detached.wait()
        os.kill(fork, signal.SIGKILL), os.waitpid(fork, 0)

    END
"""
"""A test with a datapath, a process that knows nothing of us, and a fork; with more, and an end."""
