"""Writes to the disk of a guest, and cuts the power before all of it is durable."""

from __future__ import annotations

from pathlib import Path

from tests.support.lvm.tools import write_durably
from tests.support.uml import power

DISK = Path("/dev/ubda")
BLOCK = 4096


def main() -> None:
    """Write, and end without a return."""
    write_durably(DISK, 0, b"s" * BLOCK)
    with DISK.open("r+b", buffering=0) as disk:
        disk.seek(BLOCK)
        disk.write(b"u" * BLOCK)
        print("written", flush=True)
        power.cut()


if __name__ == "__main__":
    main()
