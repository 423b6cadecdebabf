"""What the servers of the kernel have in common: they are set up in a guest, and nowhere else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.patience import patient
from tests.support.session import VARIABLE


def require_guest() -> None:
    """Fail anywhere but in a kernel of our own, which is gone afterwards."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    assert "User Mode Linux" in cpu, "this needs a guest: make test-lvm"


def start(*command: str) -> None:
    """Start a server that goes into the background and lives as long as the guest.

    So it is none of what a session of tests must not leave. Nobody waits for the end of its output.
    """
    own = {name: value for name, value in os.environ.items() if name != VARIABLE}
    subprocess.run(command, env=own, check=True, stdout=subprocess.DEVNULL, timeout=patient(60))
