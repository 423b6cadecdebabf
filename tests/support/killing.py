"""Commands killed at a system call of choice."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.support.site import Site

SM = str(Path(sys.executable).with_name("sm"))


def killed_at(site: Site, calls: str, number: int, *command: str, threads: bool = False) -> bool:
    """Run `sm` and kill it at the N-th of the calls; false when it ended before.

    With `threads` the calls of each of its threads are counted, not only those of the first one;
    then it must leave no process behind, which would be waited for.
    """
    ended = subprocess.run(
        [
            *("strace", *(["-f"] if threads else []), "-o", "/dev/null", "-e", f"trace={calls}"),
            *("-e", f"inject={calls}:signal=SIGKILL:when={number}"),
            *(SM, "--json", *command),
        ],
        env=site.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if ended.returncode == 0:
        return False
    assert ended.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), ended.stderr
    return True
