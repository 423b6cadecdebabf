"""Activations whose datapath is slow to come up, and that are killed meanwhile."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from sm.owner import start_time
from tests.datapath.tapdisk.active import configure
from tests.datapath.tapdisk.fixture import Tapdisk
from tests.support.patience import until
from tests.support.site import Site

MARK = "SM_TEST_SLOW_START"

DAEMON = """#!/bin/sh
while [ ! -e {go} ]; do sleep 0.02; done
exec {program} "$@"
"""

PYTHON = """import os, sys, time
served = any(word.endswith("vhd_nbd.process") for word in sys.orig_argv)
while served and not os.path.exists({go!r}):
    time.sleep(0.02)
"""


class SlowStart:
    """What an activation that was killed left: a process that comes up when it is let go.

    Nothing of the product is another one; there is a machine that is slow.
    """

    def __init__(self, site: Site, vdi: str, tapdisk: Tapdisk | None = None) -> None:
        folder = site.folder / "slow"
        folder.mkdir()
        self._go = folder / "go"
        self._token = uuid.uuid4().hex
        name = "qemu-storage-daemon"
        program = shutil.which(name)
        assert program is not None
        (folder / name).write_text(DAEMON.format(go=self._go, program=program))
        (folder / name).chmod(0o755)
        (folder / "sitecustomize.py").write_text(PYTHON.format(go=str(self._go)))
        site.surroundings = {
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            MARK: self._token,
        }
        if tapdisk is not None:
            slow = folder / "tapdisk"
            slow.write_text(DAEMON.format(go=self._go, program=tapdisk.binary))
            slow.chmod(0o755)
            site.configure(datapath="tapdisk", tapdisk=slow, tapdisk_control=tapdisk.control)
        command = site.start("vdi", "activate", vdi)
        until(lambda: set(self._all()) - {command.pid}, "a process was started")
        command.kill()
        command.communicate()
        site.surroundings = {}
        if tapdisk is not None:
            configure(site, tapdisk)

    def let_go(self) -> None:
        """What is still there may come up now."""
        self._go.touch()

    def processes(self) -> list[int]:
        """What is there of it."""
        return self._all()

    def _all(self) -> list[int]:
        wanted, found = f"{MARK}={self._token}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                pid = int(path.parent.name)
                if wanted in path.read_bytes().split(b"\0") and start_time(pid) is not None:
                    found.append(pid)
        return found
