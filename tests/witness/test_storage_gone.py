"""The storage of an SR goes away under disks in use: all of it can be let go of."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.owner import start_time
from tests.datapath.clients import qemu_io
from tests.support.outside.disk import FailingDisk, failing_disk
from tests.support.patience import until
from tests.support.site import MIB, Refused, Site

pytestmark = pytest.mark.one_in(2)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FailingDisk]:
    """The disk below the folder of the test, a good one at first."""
    with failing_disk(tmp_path) as found:
        yield found


@pytest.fixture
def served(site: Site, cow_format: str) -> tuple[str, str, int]:
    """An SR and a disk in use, with its process."""
    sr = site.create_sr()
    vdi = site.create_vdi(sr, cow_format, 8 * MIB)
    told = site.sm("vdi", "activate", vdi)
    qemu_io(told["nbd"], "write -P 1 1M 64k", "flush")
    return sr, vdi, int(told["pid"])


def _let_go_of(site: Site, sr: str) -> None:
    """Nothing is active, or this would be refused: the SR can be detached and forgotten."""
    site.sm("sr", "detach", sr)
    site.sm("sr", "forget", sr)
    assert site.sm("sr", "list") == []


def test_it_is_deactivated_detached_and_forgotten(site: Site, served: tuple[str, str, int]) -> None:
    sr, vdi, pid = served
    shutil.rmtree(site.folder / "store")
    with pytest.raises(Refused, match="active"):
        site.sm("sr", "detach", sr)
    site.deactivate(vdi)
    assert start_time(pid) is None
    _let_go_of(site, sr)


def test_a_key_without_a_process_is_reset(site: Site, served: tuple[str, str, int]) -> None:
    sr, vdi, pid = served
    shutil.rmtree(site.folder / "store")
    host = site.sm("host", "list")[0]["uuid"]
    with pytest.raises(Refused, match="serves"):
        site.sm("vdi", "reset", vdi, "--host", host)
    os.kill(pid, signal.SIGKILL)
    until(lambda: start_time(pid) is None)
    site.sm("vdi", "reset", vdi, "--host", host)
    _let_go_of(site, sr)


def test_it_comes_back_whole(site: Site, served: tuple[str, str, int]) -> None:
    """A folder that was away for a while is attached as it was."""
    sr, vdi, _ = served
    store, away = site.folder / "store", site.folder / "away"
    store.rename(away)
    site.deactivate(vdi)
    site.sm("sr", "detach", sr)
    away.rename(store)
    site.sm("sr", "attach", sr)
    qemu_io(site.activate(vdi), "read -P 1 1M 64k")
    site.deactivate(vdi)


@pytest.mark.parametrize("cow_format", ["vhd"], indirect=True)
def test_a_flush_that_fails_is_told_once(site: Site, disk: FailingDisk, cow_format: str) -> None:
    """The process is gone all the same, and a repeated call finds nothing left to end."""
    site.surroundings = disk.environment
    sr = site.create_sr()
    vdi = site.create_vdi(sr, cow_format, 8 * MIB)
    told = site.sm("vdi", "activate", vdi)
    qemu_io(told["nbd"], "write -P 1 1M 64k")
    disk.fail("fsync", errno.EIO, names="away/*")
    (site.folder / "store").rename(site.folder / "away")
    with pytest.raises(Refused):
        site.deactivate(vdi)
    assert start_time(int(told["pid"])) is None
    site.deactivate(vdi)
    _let_go_of(site, sr)
