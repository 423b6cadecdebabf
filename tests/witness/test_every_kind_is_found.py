"""A process is found by its note, whatever the settings say by now; only new ones follow them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.owner import start_time
from tests.datapath.clients import content, qemu_io
from tests.datapath.tapdisk.active import configure
from tests.datapath.tapdisk.fixture import Tapdisk
from tests.support.site import MIB, Refused, Site

pytestmark = pytest.mark.one_in(2)

SIZE = 8 * MIB


@pytest.fixture
def tapdisk(tmp_path: Path) -> Iterator[Tapdisk]:
    """A tapdisk whose processes end with the test."""
    found = Tapdisk(tmp_path)
    yield found
    found.end()


@pytest.fixture
def served(tapdisk: Tapdisk, tmp_path: Path, cow_format: str) -> tuple[Site, str, str, int]:
    """A disk that a tapdisk serves, and settings that no longer speak of one."""
    site = Site(tmp_path)
    configure(site, tapdisk)
    sr = site.create_sr()
    vdi = site.create_vdi(sr, cow_format, SIZE)
    told = site.sm("vdi", "activate", vdi)
    assert told["datapath"] == "tapdisk"
    elsewhere = tmp_path / "elsewhere"
    site.configure(datapath="own", tapdisk="no-such-tapdisk", tapdisk_control=elsewhere)
    return site, sr, vdi, int(told["pid"])


def test_a_second_activation_finds_the_first_process(
    served: tuple[Site, str, str, int],
) -> None:
    site, _, vdi, pid = served
    again = site.sm("vdi", "activate", vdi)
    assert (again["datapath"], again["pid"]) == ("tapdisk", pid)
    qemu_io(again["nbd"], "write -P 5 1M 64k")
    assert site.sm("doctor")["findings"] == []


def test_a_deactivation_ends_it(served: tuple[Site, str, str, int], tapdisk: Tapdisk) -> None:
    """And what is activated then follows the settings."""
    site, _, vdi, pid = served
    qemu_io(site.sm("vdi", "activate", vdi)["nbd"], "write -P 5 1M 64k")
    site.deactivate(vdi)
    assert start_time(pid) is None
    assert list((tapdisk.control / "tapdisk").glob("tapdisk-*")) == []
    fresh = site.sm("vdi", "activate", vdi)
    assert fresh["datapath"] in ("qsd", "vhd_nbd")
    assert content(fresh["nbd"], SIZE)[MIB : MIB + (64 << 10)] == b"\5" * (64 << 10)
    site.deactivate(vdi)


def test_its_key_is_not_reset(served: tuple[Site, str, str, int]) -> None:
    site, _, vdi, pid = served
    host = site.sm("host", "list")[0]["uuid"]
    with pytest.raises(Refused, match="serves"):
        site.sm("vdi", "reset", vdi, "--host", host)
    assert start_time(pid) is not None


def test_a_snapshot_takes_the_process_along(served: tuple[Site, str, str, int]) -> None:
    """What is written after the snapshot is in the disk, and not in its copy."""
    site, sr, vdi, pid = served
    socket = site.sm("vdi", "activate", vdi)["nbd"]
    qemu_io(socket, "write -P 1 1M 64k")
    copy = site.snapshot(vdi)
    qemu_io(socket, "write -P 2 1M 64k")
    assert start_time(pid) is not None
    site.deactivate(vdi)
    for uuid, byte in ((copy, 1), (vdi, 2)):
        uri = site.activate(uuid, "--read-only")
        assert content(uri, SIZE)[MIB : MIB + (64 << 10)] == bytes([byte]) * (64 << 10)
        site.deactivate(uuid)
    site.sm("gc", "run", "--sr", sr)
