"""What the servers of the kernel have in common: they are set up in a guest, and nowhere else."""

from __future__ import annotations

from pathlib import Path


def require_guest() -> None:
    """Fail anywhere but in a kernel of our own, which is gone afterwards."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    assert "User Mode Linux" in cpu, "this needs a guest: make test-lvm"
