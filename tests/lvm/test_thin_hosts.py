"""A thin disk on another host than the SR master, which is killed while the disk is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sm import keys
from sm.config import load
from sm.volumes.lvm import making
from sm.volumes.lvm.names import group_name
from tests.datapath.clients import Writer, content
from tests.hosts.hosts import Host
from tests.lvm.conftest import MIB
from tests.support import guest
from tests.support.leftovers import end_processes
from tests.support.lvm.loop import LoopDisk
from tests.support.patience import until

pytestmark = pytest.mark.world

SIZE = 64 * MIB


@pytest.fixture
def hosts(tmp_path: Path, loop_disk: Callable[[int], LoopDisk]) -> Iterator[tuple[Host, Host, str]]:
    """The master of a thin SR, another host, and the SR; in one kernel, which both map it in."""
    database = tmp_path / "shared" / "pool.db"
    options = {"thin_spare_mib": "16"}
    master, other = (Host(tmp_path, name, database, **options) for name in ("alpha", "beta"))
    device = loop_disk(256 * MIB).device
    master.start()
    other.start()
    sr = str(
        master.sm(
            *("sr", "create", "--name", "shared", "--shared", "--type", "lvm"),
            *("--device-config", f"device={device}", "--device-config", "allocation=thin"),
        )["uuid"]
    )
    other.sm("sr", "attach", sr)
    yield master, other, sr
    print((other.root / "log" / "sm.log").read_text()[-6000:])
    end_processes(str(tmp_path))
    place = {"group": group_name(sr), "devices": [str(device)], "allocation": "thin"}
    making.remove_group(place, load(master.root))


def test_users_wait_for_a_master_that_is_killed(hosts: tuple[Host, Host, str]) -> None:
    master, other, sr = hosts
    disk = master.create_vdi(sr, "qcow2", SIZE)
    uri = other.activate(disk)

    def waits() -> set[str]:
        with other.pool() as pool:
            return set(keys.WAITS) & pool.vdi_by_uuid(disk).sm_config.keys()

    with Writer(uri, bytes(SIZE)) as writer:
        writer.go_on(20)
        master.kill()
        until(lambda: waits() == {keys.WAITS_FOR_MASTER}, seconds=120)
        assert writer.problem is None
        rounds = writer.rounds
        master.start()
        until(lambda: writer.rounds > rounds + 20, seconds=120)
        until(lambda: not waits(), seconds=60)
    assert content(uri, SIZE) == writer.data
    other.deactivate(disk)
    assert guest.content(other.chain(sr, disk)) == writer.data
