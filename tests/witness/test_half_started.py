"""An activation is killed while its process comes up: who comes next ends that, or adopts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.datapath.clients import content, qemu_io
from tests.datapath.tapdisk.active import configure
from tests.datapath.tapdisk.fixture import Tapdisk
from tests.support.patience import until
from tests.support.site import MIB, Site
from tests.witness.starting import SlowStart

pytestmark = pytest.mark.one_in(2)

SIZE = 8 * MIB


@pytest.fixture
def disk(site: Site, cow_format: str) -> tuple[str, str]:
    """An SR and a disk with data."""
    sr = site.create_sr()
    vdi = site.create_vdi(sr, cow_format, SIZE)
    qemu_io(site.activate(vdi), "write -P 7 1M 64k")
    site.deactivate(vdi)
    return sr, vdi


def _deactivate(site: Site, sr: str, vdi: str) -> None:
    site.deactivate(vdi)


def _snapshot(site: Site, sr: str, vdi: str) -> None:
    site.snapshot(vdi)


def _attach(site: Site, sr: str, vdi: str) -> None:
    site.sm("sr", "attach", sr)


def _mend(site: Site, sr: str, vdi: str) -> None:
    found = site.sm("doctor")["findings"]
    assert "start-unfinished" in {finding["code"] for finding in found}
    site.sm("doctor", "--fix", "--yes")
    assert site.sm("doctor")["findings"] == []


@pytest.mark.parametrize("come_next", [_deactivate, _snapshot, _attach, _mend])
def test_what_comes_next_ends_it(
    site: Site, disk: tuple[str, str], come_next: Callable[[Site, str, str], None]
) -> None:
    sr, vdi = disk
    left = SlowStart(site, vdi)
    assert left.processes()
    come_next(site, sr, vdi)
    assert left.processes() == []
    left.let_go()
    _works(site, sr, vdi)


def test_an_activation_ends_it_and_starts_its_own(site: Site, disk: tuple[str, str]) -> None:
    sr, vdi = disk
    left = SlowStart(site, vdi)
    uri = site.activate(vdi)
    assert left.processes() == []
    qemu_io(uri, "write -P 8 2M 64k")
    left.let_go()
    assert content(uri, SIZE)[2 * MIB : 2 * MIB + 4] == b"\x08" * 4
    _works(site, sr, vdi)


def test_one_that_came_up_is_adopted(site: Site, disk: tuple[str, str]) -> None:
    sr, vdi = disk
    left = SlowStart(site, vdi)
    left.let_go()
    until(lambda: len(left.processes()) == 1)
    told = site.sm("vdi", "activate", vdi)
    assert left.processes() in ([told["pid"]], [])
    qemu_io(told["nbd"], "write -P 8 2M 64k")
    site.deactivate(vdi)
    assert left.processes() == []
    _works(site, sr, vdi)


def test_a_tapdisk_that_has_no_socket_yet(site: Site, tmp_path: Path, cow_format: str) -> None:
    """It is known by what it carries alone."""
    tapdisk = Tapdisk(tmp_path)
    configure(site, tapdisk)
    sr = site.create_sr()
    vdi = site.create_vdi(sr, cow_format, SIZE)
    qemu_io(site.activate(vdi), "write -P 7 1M 64k")
    site.deactivate(vdi)
    left = SlowStart(site, vdi, tapdisk)
    assert left.processes()
    site.deactivate(vdi)
    assert left.processes() == []
    assert list((tapdisk.control / "tapdisk").glob("tapdisk-*")) == []
    left.let_go()
    read = content(site.activate(vdi), SIZE)
    assert read[MIB : MIB + (64 << 10)] == b"\x07" * (64 << 10)
    site.deactivate(vdi)
    assert site.sm("doctor")["findings"] == []


def _works(site: Site, sr: str, vdi: str) -> None:
    """The disk reads as before, and nothing on the SR is stuck."""
    site.deactivate(vdi)
    copy = site.snapshot(vdi)
    site.sm("sr", "scan", sr)
    site.sm("gc", "run", "--sr", sr)
    for uuid in (vdi, copy):
        read = content(site.activate(uuid, "--read-only"), SIZE)
        assert read[MIB : MIB + (64 << 10)] == b"\x07" * (64 << 10)
        site.deactivate(uuid)
    assert site.sm("doctor")["findings"] == []
