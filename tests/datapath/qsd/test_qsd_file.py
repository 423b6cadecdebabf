"""A disk shown as a file: the daemon's FUSE export."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.datapath.base import DatapathFailed, JobState, Statistics
from sm.datapath.qsd import mount
from sm.errors import VdiInUse
from sm.owner import start_time
from tests.datapath.clients import BLOCK
from tests.datapath.contract.subjects import SIZE, Qsd
from tests.datapath.contract.test_serving import DISK
from tests.support.patience import until


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Qsd]:
    """Images in a folder with an odd name, and a daemon that ends with the test."""
    folder = tmp_path / "a, b\\c"
    folder.mkdir()
    subject = Qsd(folder)
    yield subject
    subject.datapath().close(DISK)


class File:
    """Its user, and what it must hold."""

    def __init__(self, path: Path, model: bytearray) -> None:
        self.path = path
        self.model = model
        self._descriptor = os.open(path, os.O_RDWR)
        self._turn = 0

    def use(self) -> None:
        """Write some, read everything."""
        self._turn += 1
        for number in range(5):
            at = (self._turn * 7 + number * 3) % (SIZE // BLOCK) * BLOCK
            data = bytes([self._turn]) * BLOCK
            assert os.pwrite(self._descriptor, data, at) == BLOCK
            self.model[at : at + BLOCK] = data
        os.fsync(self._descriptor)
        assert self.path.read_bytes() == self.model

    def close(self) -> None:
        """Leave."""
        os.close(self._descriptor)


@pytest.mark.own_namespaces
def test_everything_but_a_pause(subject: Qsd) -> None:
    datapath, shown = subject.datapath(), subject.folder / "shown"
    chain, model = subject.chain("a", "b", "c", "d")
    endpoint = datapath.open(DISK, chain, read_only=False, path=shown)
    assert (endpoint.nbd, endpoint.socket, endpoint.path) == (None, None, shown)
    assert datapath.open(DISK, chain, read_only=False, path=shown) == endpoint
    with pytest.raises(VdiInUse):
        datapath.open(DISK, chain, read_only=False)
    assert shown.stat().st_size == SIZE
    user = File(shown, model)
    user.use()
    with pytest.raises(DatapathFailed, match="shows as a file"):
        datapath.pause(DISK)
    chain = subject.add_leaf(chain, "snapshot")
    datapath.refresh(DISK, chain)
    user.use()
    datapath.refresh(DISK, chain)
    user.use()
    left = subject.merge_beside([chain[0], *chain[1:]])
    datapath.refresh(DISK, left)
    user.use()
    left = subject.add_leaf(left, "second")
    datapath.refresh(DISK, left)
    user.use()
    datapath.start_commit(DISK, left[1], left[2])
    user.use()
    while (job := datapath.job(DISK)) is not None and job.state is JobState.RUNNING:
        time.sleep(0.01)
    assert job is not None
    assert job.state is JobState.DONE
    datapath.finish_commit(DISK)
    left[1].path.unlink()
    del left[1]
    user.use()
    found = subject.datapath().find(DISK)
    assert found is not None
    assert (found.endpoint, found.chain, found.paused) == (endpoint, tuple(left), False)
    assert datapath.statistics(DISK) == Statistics()
    user.close()
    datapath.close(DISK)
    assert not shown.exists()
    assert start_time(endpoint.pid) is None
    assert subject.content(left) == model
    subject.check(left)


@pytest.mark.own_namespaces
def test_a_dead_mount_is_cleared_away(subject: Qsd) -> None:
    datapath, shown = subject.datapath(), subject.folder / "shown"
    chain, model = subject.chain("a", "b")
    for _ in range(2):
        endpoint = datapath.open(DISK, chain, read_only=False, path=shown)
        assert shown.read_bytes() == model
        os.kill(endpoint.pid, signal.SIGKILL)
        until(lambda pid=endpoint.pid: start_time(pid) is None)
        with pytest.raises(OSError, match="not connected"):
            shown.stat()
    assert datapath.find(DISK) is None
    datapath.close(DISK)
    assert not shown.exists()
    assert not mount.is_mounted(shown)


@pytest.mark.own_namespaces
def test_read_only(subject: Qsd) -> None:
    datapath, shown = subject.datapath(), subject.folder / "shown"
    chain, model = subject.chain("a", "b")
    datapath.open(DISK, chain, read_only=True, path=shown)
    assert shown.read_bytes() == model
    with pytest.raises(OSError, match="denied"), shown.open("r+b", buffering=0) as file:
        file.write(b"x" * BLOCK)
    datapath.close(DISK)
    assert subject.content(chain) == model


@pytest.mark.own_namespaces
def test_nothing_of_others_is_covered_or_removed(subject: Qsd) -> None:
    datapath = subject.datapath()
    chain, _ = subject.chain("a")
    mine, link, folder = (subject.folder / name for name in ("mine", "link", "folder"))
    mine.write_bytes(b"mine")
    link.symlink_to(mine)
    folder.mkdir()
    for path in (mine, link, folder):
        with pytest.raises(DatapathFailed, match="something else"):
            datapath.open(DISK, chain, read_only=False, path=path)
        datapath.close(DISK)
    assert mine.read_bytes() == b"mine"
    assert link.is_symlink()
    assert folder.is_dir()


def test_who_may_not_mount_is_told(subject: Qsd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount, "DEVICE", subject.folder / "no-fuse")
    chain, _ = subject.chain("a")
    with pytest.raises(DatapathFailed, match="root"):
        subject.datapath().open(DISK, chain, read_only=False, path=subject.folder / "shown")
    assert not (subject.folder / "shown").exists()
    assert subject.datapath().find(DISK) is None
