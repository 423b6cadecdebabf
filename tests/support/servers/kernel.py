"""What the servers of the kernel have in common: they are set up in a guest, and nowhere else."""

from __future__ import annotations

import subprocess
from pathlib import Path


def in_a_guest() -> bool:
    """Whether this kernel is a test's own, which is gone afterwards."""
    return "User Mode Linux" in Path("/proc/cpuinfo").read_text(encoding="ascii")


def call(*command: str | Path) -> str:
    """Run a tool; returns what it says."""
    ended = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, f"{command}: {ended.stderr}{ended.stdout}"
    return ended.stdout
