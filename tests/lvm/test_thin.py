"""Thin volumes that grow while they are written, through both datapaths."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sm import keys, watching
from sm.config import load
from sm.datapath.base import Disk
from sm.owner import Owner
from tests.datapath.clients import Writer, content, qemu_io
from tests.lvm.conftest import MIB, LvmSite, made_site
from tests.support import guest
from tests.support.lvm.loop import LoopDisk
from tests.support.patience import until

pytestmark = [pytest.mark.world, pytest.mark.one_in(2)]

SIZE = 96 * MIB
SMALL = 48 * MIB


@pytest.fixture
def thin(tmp_path: Path, loop_disk: Callable[[int], LoopDisk]) -> Iterator[LvmSite]:
    """A site of thin SRs."""
    with made_site(tmp_path, loop_disk, "thin") as site:
        yield site
        print((site.root / "log" / "sm.log").read_text()[-8000:])


def volume_size(site: LvmSite, sr: str, disk: str, image_format: str) -> int:
    return site.repository(sr).store.volume(disk, image_format).size


def test_a_fast_writer_never_fails(thin: LvmSite, cow_format: str) -> None:
    sr = thin.create_sr()
    disk = thin.create_vdi(sr, cow_format, SIZE)
    uri = thin.activate(disk)
    assert volume_size(thin, sr, disk, cow_format) <= 32 * MIB
    qemu_io(uri, *(f"write -P {n // 8 + 1} {n * MIB} {MIB}" for n in range(40)), "flush")
    assert volume_size(thin, sr, disk, cow_format) >= 40 * MIB
    data = b"".join(bytes([n + 1]) * (8 * MIB) for n in range(5)).ljust(SIZE, b"\0")
    assert content(uri, SIZE) == data
    thin.deactivate(disk)
    assert guest.content(thin.chain(sr, disk)) == data
    assert guest.check_clean(thin.chain(sr, disk)) == []


def watcher(site: LvmSite, sr: str, disk: str) -> int:
    """The process that watches a disk."""
    note = watching.disk_note(load(site.root), Disk(sr, disk))
    return Owner.parse(note.read_text()).pid


def marks(site: LvmSite, disk: str) -> set[str]:
    """What the record says that users wait for."""
    return set(keys.WAITS) & site.sm("vdi", "show", disk)["sm_config"].keys()


def test_in_a_full_group_users_wait_until_there_is_space(thin: LvmSite, cow_format: str) -> None:
    """Whoever watches is killed meanwhile."""
    sr = thin.create_sr(size=80 * MIB)
    spare = thin.create_vdi(sr, "raw", 24 * MIB)
    disk = thin.create_vdi(sr, cow_format, SMALL)
    uri = thin.activate(disk)
    with Writer(uri, bytes(SMALL)) as writer:
        until(lambda: marks(thin, disk) == {keys.WAITS_FOR_SPACE}, seconds=120)
        rounds = writer.rounds
        os.kill(watcher(thin, sr, disk), signal.SIGKILL)
        time.sleep(1)
        assert writer.rounds - rounds <= 1
        assert writer.problem is None
        assert thin.sm("vdi", "show", disk)["waits_for"] == "space"
        found = thin.sm("doctor", "--sr", sr)["findings"]
        assert "waits-for-space" in [each["code"] for each in found]
        thin.delete(spare)
        thin.sm("gc", "run", "--sr", sr)
        writer.go_on(10)
        until(lambda: not marks(thin, disk), seconds=60)
    assert content(uri, SMALL) == writer.data
    thin.deactivate(disk)
    assert guest.content(thin.chain(sr, disk)) == writer.data


def test_a_snapshot_under_a_writer_costs_megabytes(thin: LvmSite, cow_format: str) -> None:
    """The new leaf grows as the old one did; those who watch are killed again and again."""
    sr = thin.create_sr(size=200 * MIB)
    disk = thin.create_vdi(sr, cow_format, SIZE)
    uri = thin.activate(disk)
    with Writer(uri, bytes(SIZE)) as writer:
        until(lambda: volume_size(thin, sr, disk, cow_format) > 24 * MIB, seconds=120)
        snapshot = thin.snapshot(disk)
        assert volume_size(thin, sr, disk, cow_format) <= 28 * MIB
        assert volume_size(thin, sr, snapshot, cow_format) <= 8 * MIB
        os.kill(watcher(thin, sr, disk), signal.SIGKILL)
        writer.go_on(20)
        keeper = watching.keeper_note(load(thin.root))
        os.kill(Owner.parse(keeper.read_text()).pid, signal.SIGKILL)
        until(lambda: volume_size(thin, sr, disk, cow_format) > 24 * MIB, seconds=120)
    assert content(uri, SIZE) == writer.data
    thin.deactivate(disk)
    for vdi in (disk, snapshot):
        assert guest.check_clean(thin.chain(sr, vdi)) == []
    assert guest.content(thin.chain(sr, disk)) == writer.data
