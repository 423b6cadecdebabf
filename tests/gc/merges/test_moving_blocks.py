"""Images by other programs, which leave no room in front of their blocks, merged beside a guest.

What would move blocks that the guest's process has found already waits until it is not there.
"""

from __future__ import annotations

import subprocess
import uuid

import pytest

from tests.datapath.clients import content, qemu_io
from tests.support import guest
from tests.support.site import MIB, Site

pytestmark = pytest.mark.one_in(1)

SMALL, LARGE = 16 * MIB, 24 * MIB
RATE = "2"
"""MiB per second, so that the guest reads while a merge goes on."""


def foreign_disk(site: Site, sr: str, size: int) -> str:
    """A VHD that qemu-img wrote, full of sevens, with its data right behind its table."""
    disk = str(uuid.uuid4())
    path = site.folder / "store" / f"{disk}.vhd"
    options = "subformat=dynamic,force_size=on"
    made = ["qemu-img", "create", "-q", "-f", "vpc", "-o", options, str(path), str(size)]
    subprocess.run(made, check=True)
    written = ["qemu-io", "-f", "vpc", "-c", f"write -P 7 0 {size}", str(path)]
    subprocess.run(written, check=True, capture_output=True)
    site.sm("sr", "scan", sr)
    return disk


def collect_beside(site: Site, sr: str, uri: str, wanted: bytes) -> list[str]:
    """Run the collector, with the guest reading all the time; the codes of what waits."""
    site.sm("gc", "limit", "--sr", sr, "--rate-mib", RATE)
    running = site.start("gc", "run", "--sr", sr)
    while running.poll() is None:
        assert content(uri, len(wanted)) == wanted
    report = site.result(running)
    assert content(uri, len(wanted)) == wanted
    site.sm("gc", "limit", "--sr", sr, "--rate-mib", "none")
    return [each["code"] for each in report["waiting"]]


def test_a_table_is_not_grown_beside_a_guest(site: Site) -> None:
    sr = site.create_sr()
    disk = foreign_disk(site, sr, SMALL)
    first = site.snapshot(disk)
    site.sm("vdi", "resize", disk, "--size", str(LARGE))
    uri = site.activate(disk)
    qemu_io(uri, f"write -P 9 {20 * MIB} 2M", "flush")
    second = site.snapshot(disk)
    qemu_io(uri, f"write -P 8 {18 * MIB} 1M", "flush")
    site.delete(first)
    site.delete(second)
    wanted = b"\7" * SMALL + bytes(2 * MIB) + b"\10" * MIB + bytes(MIB) + b"\11" * (2 * MIB)
    wanted += bytes(LARGE - len(wanted))
    assert collect_beside(site, sr, uri, wanted) == ["moves-blocks"]
    site.deactivate(disk)
    report = site.sm("gc", "run", "--sr", sr)
    assert report["waiting"] == []
    assert site.images(sr) == {disk}
    assert guest.content(site.chain(sr, disk)) == wanted
    assert guest.check_clean(site.chain(sr, disk)) == []
