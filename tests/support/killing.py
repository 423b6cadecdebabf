"""Commands killed or made to fail at a system call of choice, below Python."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.forked import Outcome
from tests.support.patience import patient
from tests.support.site import Site

SM = str(Path(sys.executable).with_name("sm"))


def killed_at(site: Site, calls: str, number: int, *command: str, threads: bool = False) -> bool:
    """Run `sm` and kill it at the N-th of the calls; false when it ended before.

    With `threads` the calls of each of its threads are counted, not only those of the first one;
    then it must leave no process behind, which would be waited for.
    """
    injected = f"{calls}:signal=SIGKILL:when={number}"
    ended = _traced(site, Path("/dev/null"), calls, injected, *command, children=threads)
    if ended.returncode == 0:
        return False
    assert ended.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), ended.stderr
    return True


def failing_below(
    site: Site, calls: str, error: str, number: int, *command: str
) -> tuple[Outcome, bool]:
    """Run `sm` with the N-th of each of the calls failing, in it and in each tool that it starts.

    Gives how it ended, and whether any did fail.
    """
    trace = site.folder / "trace"
    injected = f"{calls}:error={error}:when={number}"
    ended = _traced(site, trace, calls, injected, *command, children=True)
    assert "Traceback" not in ended.stderr, ended.stderr
    failed = "(INJECTED)" in trace.read_text()
    trace.unlink()
    return Outcome(ended.returncode, json.loads(ended.stdout)), failed


def _traced(
    site: Site, trace: Path, calls: str, injected: str, *command: str, children: bool
) -> subprocess.CompletedProcess[str]:
    """Run `sm` with a fault among its calls, and with `children` among those of all it starts."""
    return subprocess.run(
        [
            *("strace", *(["-f"] if children else []), "-o", str(trace)),
            *("-e", f"trace={calls}", "-e", f"inject={injected}"),
            *(SM, "--json", *command),
        ],
        env=site.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(120),
    )
