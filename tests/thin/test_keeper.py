"""The processes that watch: they come with the first disk, replace each other, go with the last."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm import watching
from sm.config import Settings, load
from sm.datapath.base import Disk
from sm.datapath.qsd.datapath import QsdDatapath
from sm.owner import Owner
from tests.support.leftovers import end_processes
from tests.support.patience import until
from tests.support.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A storage manager of its own; what it started ends with the test."""
    yield Site(tmp_path)
    end_processes(str(tmp_path))


def pid_of(note: Path) -> int:
    return Owner.parse(note.read_text()).pid


def another(note: Path, than: int) -> int:
    """Wait until a note names another process than this one."""
    until(lambda: note.exists() and pid_of(note) != than)
    return pid_of(note)


def opened(site: Site, settings: Settings) -> tuple[QsdDatapath, Disk]:
    """A disk that is said to grow, though its file has no end."""
    sr = site.create_sr()
    disk = Disk(sr, site.create_vdi(sr, "qcow2"))
    datapath = QsdDatapath(settings.run / "datapath")
    datapath.open(disk, site.chain(sr, disk.vdi), read_only=False, pace=1 << 30)
    return datapath, disk


def test_whoever_is_killed_is_replaced_and_all_end_with_the_last_disk(site: Site) -> None:
    settings = load(site.root)
    datapath, disk = opened(site, settings)
    watching.require_watched(settings, disk)
    keeper, watched = watching.keeper_note(settings), watching.disk_note(settings, disk)
    first, watcher = pid_of(keeper), pid_of(watched)
    os.kill(watcher, signal.SIGKILL)
    watcher = another(watched, watcher)
    assert pid_of(keeper) == first
    os.kill(first, signal.SIGKILL)
    second = another(keeper, first)
    watcher = another(watched, watcher)
    watching.ensure(settings)
    assert pid_of(keeper) == second
    datapath.close(disk)
    until(lambda: not keeper.exists())
    until(lambda: not Path(f"/proc/{watcher}").exists())


def test_without_such_a_disk_nothing_is_started(site: Site) -> None:
    settings = load(site.root)
    watching.ensure(settings)
    assert not watching.folder(settings).exists()
    assert not watching.is_kept(settings)


def test_there_is_one_keeper(site: Site) -> None:
    settings = load(site.root)
    _, disk = opened(site, settings)
    watching.require_watched(settings, disk)
    kept = pid_of(watching.keeper_note(settings))
    more = site.process("-m", "sm.thin.keeper", "--root", str(site.root))
    assert more.returncode == 0
    assert pid_of(watching.keeper_note(settings)) == kept
