"""One guest: a second kernel, started as an ordinary process, that runs one command as root."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from tests.support.memory import memory_folder
from tests.support.session import VARIABLE
from tests.support.uml import init, keeper, lvm_settings
from tests.support.uml.setup import (
    MODULES,
    SYSTEM_PATH,
    Setup,
    cpu_of,
    disks_of,
    environment_of,
    kernel,
    shared_folders,
    state_of,
)

LOOK_SECONDS = 0.03
SWITCH_OFF_SECONDS = 10.0
"""What a guest may take to write back and switch off after its command; then it is ended."""

LVM_FOLDER = Path("/run/sm-lvm")
CONSOLE_LINES = 50
"""Of the kernel's log; a panic says why some thirty lines before its end."""


class How(Enum):
    """How a guest ended."""

    RETURNED = "the command ended"
    POWER_CUT = "the guest switched itself off before the command ended"
    DEADLINE = "the deadline passed"
    DIED = "the guest did not boot, or its kernel failed"


@dataclass(frozen=True)
class Ended:
    """The end of a guest; `status` is the command's, 128+N for a signal, None where it has none."""

    how: How
    status: int | None
    stdout: bytes
    stderr: bytes
    console: str

    def __str__(self) -> str:
        said = f"{self.stdout.decode(errors='replace')}{self.stderr.decode(errors='replace')}"
        text = f"{self.how.value}, status {self.status}\n{said}"
        return text if self.how is How.RETURNED else f"{text}\nkernel:\n{self.console}"


class _Tail:
    """Passes on what is appended to a file."""

    def __init__(self, path: Path, sink: BinaryIO) -> None:
        path.touch()
        self._file = path.open("rb")
        self._sink = sink

    def copy(self) -> None:
        """Pass on what has come since."""
        while data := self._file.read(1 << 16):
            self._sink.write(data)
            self._sink.flush()

    def close(self) -> None:
        """Look no more."""
        self._file.close()


class Guest:
    """A guest that runs `command`; used in a `with`, after which no trace of it is left.

    What the command says goes to the sinks while it runs, or into `Ended`. Raises `CannotRun`.
    """

    def __init__(
        self,
        command: Sequence[str],
        setup: Setup | None = None,
        stdout: BinaryIO | None = None,
        stderr: BinaryIO | None = None,
    ) -> None:
        setup = setup or Setup()
        program, disks, shares = kernel(), disks_of(setup), shared_folders(setup)
        state = state_of(setup)
        self._deadline = time.monotonic() + setup.deadline_seconds
        self._kept = (io.BytesIO(), io.BytesIO())
        wires = () if setup.wire is None else (setup.wire.socket.fileno(),)
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", keeper.__file__, str(state)],
            pass_fds=wires,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._orders, self._reports = self._keeper.stdin, self._keeper.stdout
        self._state = Path(self._reports.readline().strip())
        sinks = (stdout or self._kept[0], stderr or self._kept[1])
        names = (self._state / "stdout", self._state / "stderr")
        self._tails = [_Tail(name, sink) for name, sink in zip(names, sinks, strict=True)]
        self._ended: Ended | None = None
        self._switching_off = False
        self._stopped = False
        self._write_job(command, setup, shares)
        order = {
            "wires": wires,
            "cpu": cpu_of(setup),
            "argv": [program, *self._arguments(setup, disks)],
            "environment": {
                "PATH": SYSTEM_PATH,
                "HOME": str(self._state),
                # Its memory is a file there.
                "TMPDIR": str(memory_folder(setup.memory_mib) or "/var/tmp"),
                # What a session of tests finds it by, should its keeper be killed.
                VARIABLE: os.environ.get(VARIABLE, ""),
            },
        }
        print(json.dumps(order), file=self._orders, flush=True)

    def _write_job(self, command: Sequence[str], setup: Setup, shares: list[Path]) -> None:
        lvm = lvm_settings.environment(LVM_FOLDER, udev=False)
        job = {
            "command": list(command),
            "environment": {**environment_of(setup), **lvm},
            "folder": str(setup.folder.absolute()),
            "shares": list(map(str, shares)),
            "modules": [*MODULES, *setup.modules],
            "address": None if setup.wire is None else setup.wire.address,
            "files": {str(LVM_FOLDER / "lvm.conf"): lvm_settings.lvm_conf(udev=False)},
        }
        (self._state / "job.json").write_text(json.dumps(job))

    def _arguments(self, setup: Setup, disks: list[Path]) -> list[str]:
        """The kernel's command line. It has no quotes, so all names in it are links of ours."""
        links = {"python": Path(sys.executable).resolve(), "init.py": Path(init.__file__).resolve()}
        links |= {f"disk{number}": disk for number, disk in enumerate(disks)}
        wire = setup.wire
        for name, target in links.items():
            (self._state / name).symlink_to(target)
        return [
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
            *(f"mem={setup.memory_mib}M", f"umid={self._state.name}", f"uml_dir={self._state}"),
            *("con=null", "con0=null,fd:1"),
            # A panic ends the guest; old terminals would be scanned by each command of LVM.
            *("panic=1", "pty.legacy_count=0"),
            # c: others may have it open, too; d: no copy-on-write header is looked for.
            *(f"ubd{number}cd={self._state}/disk{number}" for number in range(len(disks))),
            *(() if wire is None else (f"vec0:transport=fd,fd={wire.socket.fileno()}",)),
            *(f"init={self._state}/python", "--", "-I", "-S", "-B"),
            *(f"{self._state}/init.py", str(self._state)),
        ]

    def wait(self) -> Ended:
        """Wait for the end, at most until the deadline."""
        while (ended := self.look()) is None:
            continue
        return ended

    def look(self) -> Ended | None:
        """Pass on what it said, and wait a moment for its end; None when it goes on."""
        if self._ended is None:
            over, _, _ = select.select([self._reports], [], [], LOOK_SECONDS)
            for tail in self._tails:
                tail.copy()
            if over:
                self._ended = self._look_back(self._reports.readline().strip())
            else:
                self._mind_the_time()
        return self._ended

    def _mind_the_time(self) -> None:
        if not self._switching_off and (self._state / "status").exists():
            self._switching_off = True
            self._deadline = min(self._deadline, time.monotonic() + SWITCH_OFF_SECONDS)
        if not self._stopped and time.monotonic() > self._deadline:
            self._stopped = True
            print("end", file=self._orders, flush=True)

    def _look_back(self, kernel_status: str) -> Ended:
        status = self._state / "status"
        if status.exists():
            how = How.RETURNED
        elif self._stopped:
            how = How.DEADLINE
        elif kernel_status == "0" and (self._state / "started").exists():
            how = How.POWER_CUT
        else:
            how = How.DIED
        console = (self._state / "console").read_text(errors="replace").splitlines()
        return Ended(
            how,
            int(status.read_text()) if how is How.RETURNED else None,
            self._kept[0].getvalue(),
            self._kept[1].getvalue(),
            "\n".join(console[-CONSOLE_LINES:]),
        )

    def end(self) -> None:
        """End it now, if it has not ended; returns when no process and no file of it is left."""
        self._orders.close()
        self._keeper.wait()
        self._reports.close()
        for tail in self._tails:
            tail.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()


def run(command: Sequence[str], setup: Setup | None = None) -> Ended:
    """Run one command in a guest of its own; raises `CannotRun`."""
    with Guest(command, setup) as guest:
        return guest.wait()
