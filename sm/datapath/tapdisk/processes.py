"""Tapdisk processes: starting one, finding it again, and making one end.

A pid alone is no identity, and what runs in the control directory may be anybody's. So ours carry
the name of their note in their environment, which they keep for life.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from sm import process
from sm.datapath import tokens
from sm.datapath.base import OutcomeUnknown, TapdiskFailed
from sm.owner import start_time

MARK = "SM_SERVES"
SOCKET = re.compile(r"ctl([0-9]{1,9})")
POLL_SECONDS = 0.005


def start(binary: str, owner: str, seconds: float, token: str = "") -> int:
    """Start a tapdisk for `owner`; it answers on its control socket when this returns its pid.

    It carries `token`; see `sm.datapath.tokens`.

    It may lock as much memory as it likes: it ends at once where it cannot.
    """
    # Its own command line has no room for a mark: it takes no arguments.
    # Through a shell, because `env` takes a program with "=" in its path for one more variable.
    command = ["env", f"{MARK}={owner}", "sh", "-c", 'exec "$0"', binary]
    carried = {tokens.VARIABLE: token}
    ended = process.run(command, timeout=seconds, limited=False, environment=carried)
    told = ended.stdout.strip()
    name = SOCKET.fullmatch(told.rpartition("/")[2])
    if name is None:
        raise TapdiskFailed(
            f"{binary} printed {told!r:.200} instead of its control socket; it needs to lock its"
            " memory (CAP_IPC_LOCK, CAP_SYS_RESOURCE), and has a log in /var/log/blktap"
        )
    return int(name[1])


def find(folder: Path, owner: str) -> int | None:
    """The living process of `owner` among those with a control socket in `folder`."""
    names = (SOCKET.fullmatch(path.name) for path in folder.glob("ctl*"))
    for pid in sorted(int(name[1]) for name in names if name):
        if is_owned(pid, owner):
            return pid
    return None


def is_owned(pid: int, owner: str) -> bool:
    """Whether process `pid` lives and was started for `owner`."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return False  # ended, or somebody else's
    return f"{MARK}={owner}".encode() in environment.split(b"\0") and start_time(pid) is not None


def wait_for_end(pid: int, started: int, seconds: float) -> bool:
    """Whether the process is gone within that time."""
    deadline = time.monotonic() + seconds
    while start_time(pid) == started:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def kill(pid: int, started: int, seconds: float) -> None:
    """End it by force. It does no more on SIGTERM than on SIGKILL."""
    if start_time(pid) == started:
        os.kill(pid, signal.SIGKILL)
    if not wait_for_end(pid, started, seconds):
        raise OutcomeUnknown(f"tapdisk {pid} does not end, not even by SIGKILL: its storage hangs")
