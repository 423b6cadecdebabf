"""The parent of one guest's kernel, which outlives whoever asked for the guest, and cleans up.

It makes the folder of the guest, in the one it is given, and says its name. Then it reads one line,
how to start the kernel, and says the kernel's exit status once it has ended; any byte more ends it
early. When its input closes, also because the one at the other end was killed, every process and
the folder go.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Keep one guest."""
    # Ends the process in the ordinary way, through all that cleans up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Processes of the guest whose parent dies become our children, so that we can wait for all.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(prefix="sm-guest-", dir=sys.argv[1]) as folder:
        _say(folder)
        with open(0, "rb", buffering=0, closefd=False) as orders:
            order = orders.readline()
        if order.endswith(b"\n"):
            wanted = json.loads(order)
            os.sched_setaffinity(0, [wanted["cpu"]])
            log = Path(folder) / "console"
            _say(str(_keep(wanted["argv"], wanted["environment"], wanted["wires"], log)))
            while os.read(0, 4096):
                continue


def _keep(argv: list[str], environment: dict[str, str], wires: list[int], console: Path) -> int:
    """Run the kernel until it ends or its end is wanted; returns its exit status.

    `wires`: open sockets of ours that it is given, under the same numbers.
    """
    with console.open("wb") as log:
        kernel = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            pass_fds=wires,
        )
    for wire in wires:
        os.close(wire)
    try:
        ended = os.pidfd_open(kernel.pid)
        select.select([0, ended], [], [])
        os.close(ended)
    finally:
        # All processes of a guest are in one group, whose number is taken until we wait.
        os.killpg(kernel.pid, signal.SIGKILL)
        status = kernel.wait()
        _wait_for_orphans()
    return status


def _wait_for_orphans() -> None:
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def _say(text: str) -> None:
    # Nobody may be there any more to hear it; the closed input then says what to do.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{text}\n".encode())


if __name__ == "__main__":
    main()
