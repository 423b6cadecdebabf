"""A volume group that two hosts share: two kernels, one disk, one pool, TLS between the hosts."""

from __future__ import annotations

from pathlib import Path

from tests.hosts.certificates import Authority
from tests.lvm.conftest import MIB
from tests.support.uml.meeting import Meeting
from tests.support.uml.two_hosts import ADDRESSES, run_two

MODULES = ("tests.lvm.outside.pool_master", "tests.lvm.outside.pool_second")
SECONDS = 600.0


def test_two_hosts_merge_through_each_other(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("xb") as made:
        made.truncate(1024 * MIB)
    folder = tmp_path / "meeting"
    folder.mkdir()
    authority = Authority(tmp_path / "meeting" / "authority")
    meeting = Meeting(folder, "outside")
    for name, address in ADDRESSES.items():
        meeting.tell(name, authority.give(name, f"IP:{address}"))
    took, _ = run_two(MODULES, disk, folder, SECONDS)
    assert len(took) == 3
