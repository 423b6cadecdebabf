"""Starts two hosts that share a volume group, and has them play scenes (`pool_scenes`)."""

from __future__ import annotations

from pathlib import Path

from tests.hosts.certificates import Authority
from tests.lvm.conftest import MIB
from tests.support.patience import patient
from tests.support.uml.meeting import Meeting
from tests.support.uml.two_hosts import ADDRESSES, run_two

MODULES = ("tests.lvm.outside.pool_master", "tests.lvm.outside.pool_second")
DISK_SIZE = 1024 * MIB
SECONDS = patient(300)
"""A deadline for both guests."""


def play(folder: Path, *scenes: str) -> None:
    """Play scenes one after the other; raises AssertionError with what both hosts said."""
    disk = folder / "disk"
    with disk.open("xb") as made:
        made.truncate(DISK_SIZE)
    shared = folder / "meeting"
    shared.mkdir()
    authority = Authority(shared / "authority")
    meeting = Meeting(shared, "outside")
    meeting.tell("scenes", scenes)
    for name, address in ADDRESSES.items():
        meeting.tell(name, authority.give(name, f"IP:{address}"))
    run_two(MODULES, disk, shared, SECONDS)
