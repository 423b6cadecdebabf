"""qemu-storage-daemon as a datapath, with clients that use the disk while its chain changes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.qcow2.util import Qcow2Util
from sm.datapath.base import DatapathFailed, Disk, JobState
from sm.datapath.qsd.datapath import QsdDatapath
from sm.errors import Busy, VdiInUse, VdiMissing
from sm.owner import start_time
from sm.process import run
from tests.cowutil.contract.subjects import qemu_content
from tests.cowutil.contract.subjects import qemu_io as write_offline
from tests.datapath.clients import Writer, content, qemu_io

SIZE = 8 << 20
DISK = Disk("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
UTIL = Qcow2Util(run)


@pytest.fixture
def qsd(tmp_path: Path) -> Iterator[QsdDatapath]:
    """A datapath whose daemons end with the test."""
    datapath = QsdDatapath(tmp_path / "run")
    yield datapath
    for served in datapath.served():
        datapath.close(served.disk)


def image(folder: Path, name: str) -> ImageRef:
    """The image called `name`."""
    return ImageRef(folder / f"{name}.qcow2", "qcow2")


def chain_of(folder: Path, *names: str) -> list[ImageRef]:
    """A chain, base first in `names`; each image holds a MiB of its own number at its own place."""
    made: list[ImageRef] = []
    for number, name in enumerate(names):
        ref = image(folder, name)
        if made:
            UTIL.snapshot(ref.path, made[0], SIZE)
        else:
            UTIL.create(ref.path, SIZE)
        made.insert(0, ref)
        write_offline(made, f"write -P {number + 1} {number}M 1M")
    return made


def wait_for_end(qsd: QsdDatapath) -> JobState:
    """Poll the commit to its end."""
    deadline = time.monotonic() + 60
    while True:
        job = qsd.job(DISK)
        assert job is not None
        if job.state is not JobState.RUNNING:
            return job.state
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check(chain: list[ImageRef]) -> None:
    """Every image is sound in the eyes of qemu."""
    for each in chain:
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", each.path], check=True)


def test_open_serve_close(qsd: QsdDatapath, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "a", "b", "c")
    before = qemu_content(chain)
    endpoint = qsd.open(DISK, chain, read_only=False)
    assert qsd.open(DISK, chain, read_only=False) == endpoint
    assert content(endpoint.nbd, SIZE) == before
    qemu_io(endpoint.nbd, "write -P 9 5M 1M", "flush")
    with pytest.raises(VdiInUse):
        qsd.open(DISK, chain, read_only=True)
    found = qsd.find(DISK)
    assert found is not None
    assert (found.chain, found.endpoint, found.read_only) == (tuple(chain), endpoint, False)
    qsd.close(DISK)
    assert qsd.find(DISK) is None
    assert start_time(endpoint.pid) is None
    after = bytearray(before)
    after[5 << 20 : 6 << 20] = b"\x09" * (1 << 20)
    assert qemu_content(chain) == after
    qsd.close(DISK)
    check(chain)


def test_read_only(qsd: QsdDatapath, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "a", "b")
    for each in chain:
        each.path.chmod(0o400)
    before = [each.path.read_bytes() for each in chain]
    endpoint = qsd.open(DISK, chain, read_only=True)
    assert content(endpoint.nbd, SIZE)[1 << 20] == 2
    with pytest.raises(subprocess.CalledProcessError):
        qemu_io(endpoint.nbd, "write -P 9 0 64k")
    qsd.close(DISK)
    assert [each.path.read_bytes() for each in chain] == before


def test_odd_names(qsd: QsdDatapath, tmp_path: Path) -> None:
    folder = tmp_path / "a,b =c%20'\"é"
    folder.mkdir()
    chain = chain_of(folder, "x,y", "z=1")
    deep = QsdDatapath(folder / ("d" * 80))
    try:
        assert content(deep.open(DISK, chain, read_only=False).nbd, SIZE) == qemu_content_of(chain)
    finally:
        deep.close(DISK)


def qemu_content_of(chain: list[ImageRef]) -> bytes:
    """What the chain must read as."""
    data = bytearray(SIZE)
    for number in range(len(chain)):
        data[number << 20 : (number + 1) << 20] = bytes([number + 1]) * (1 << 20)
    return bytes(data)


def test_found_again_by_another_process_and_after_a_crash(qsd: QsdDatapath, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "a", "b")
    endpoint = qsd.open(DISK, chain, read_only=False)
    again = QsdDatapath(tmp_path / "run")
    assert [served.endpoint for served in again.served()] == [endpoint]
    os.kill(endpoint.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while again.find(DISK) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert again.served() == []
    reopened = again.open(DISK, chain, read_only=False)
    assert reopened.pid != endpoint.pid
    assert content(reopened.nbd, SIZE) == qemu_content_of(chain)


def test_a_chain_that_cannot_be_opened_leaves_nothing(qsd: QsdDatapath, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "a", "b")
    chain[1].path.unlink()
    with pytest.raises(DatapathFailed.__mro__[1]):
        qsd.open(DISK, chain, read_only=False)
    assert qsd.find(DISK) is None
    with pytest.raises(VdiMissing):
        qsd.refresh(DISK, chain)


def test_snapshot_under_a_writer(qsd: QsdDatapath, tmp_path: Path) -> None:
    leaf = image(tmp_path, "leaf")
    UTIL.create(leaf.path, SIZE)
    chain = [leaf]
    endpoint = qsd.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(SIZE)) as writer:
        for number in range(5):
            seen = writer.rounds
            base = image(tmp_path, f"base{number}")
            os.link(leaf.path, base.path)
            fresh = tmp_path / "fresh"
            UTIL.snapshot(fresh, base, SIZE)
            fresh.replace(leaf.path)
            chain = [leaf, base, *chain[1:]]
            qsd.refresh(DISK, chain)
            while writer.rounds < seen + 5 and writer.problem is None:
                time.sleep(0.01)
    assert content(endpoint.nbd, SIZE) == writer.data
    qsd.close(DISK)
    assert qemu_content(chain) == writer.data
    check(chain)


@pytest.mark.parametrize(("top", "base"), [(1, 2), (1, 3), (2, 3), (1, 4)])
def test_commit_under_a_writer(qsd: QsdDatapath, tmp_path: Path, top: int, base: int) -> None:
    chain = chain_of(tmp_path, "a", "b", "c", "d", "e")
    endpoint = qsd.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, qemu_content_of(chain)) as writer:
        qsd.start_commit(DISK, chain[top], chain[base])
        with pytest.raises(Busy):
            qsd.start_commit(DISK, chain[top], chain[base])
        assert wait_for_end(qsd) is JobState.DONE
        qsd.finish_commit(DISK)
        merged = chain[top:base]
        for each in merged:
            each.path.unlink()
        seen = writer.rounds
        while writer.rounds < seen + 20 and writer.problem is None:
            time.sleep(0.01)
    assert qsd.job(DISK) is None
    left = [each for each in chain if each not in merged]
    found = qsd.find(DISK)
    assert found is not None
    assert found.chain == tuple(left)
    assert content(endpoint.nbd, SIZE) == writer.data
    qsd.close(DISK)
    link = UTIL.info(left[top - 1].path).parent
    assert link is not None
    assert (link.name, link.format) == (chain[base].path.name, "qcow2")
    assert qemu_content(left) == writer.data
    check(left)


def test_commit_is_refused_where_it_would_harm(qsd: QsdDatapath, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "a", "b", "c")
    qsd.open(DISK, chain, read_only=False)
    for top, base in ((0, 1), (1, 1), (2, 1)):
        with pytest.raises(DatapathFailed):
            qsd.start_commit(DISK, chain[top], chain[base])
    with pytest.raises(DatapathFailed):
        qsd.start_commit(DISK, chain[1], image(tmp_path, "stranger"))
    assert qsd.job(DISK) is None


def test_cancel_changes_nothing_and_may_be_begun_again(qsd: QsdDatapath, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "a", "b", "c")
    endpoint = qsd.open(DISK, chain, read_only=False)
    for _ in range(3):
        qsd.start_commit(DISK, chain[1], chain[2])
        qsd.cancel_commit(DISK)
        state = wait_for_end(qsd)
        assert state in (JobState.CANCELLED, JobState.DONE)
        if state is JobState.DONE:
            break
        qsd.finish_commit(DISK)
        assert content(endpoint.nbd, SIZE) == qemu_content_of(chain)
    qsd.close(DISK)
    check(chain)


def test_relink_under_a_writer(qsd: QsdDatapath, tmp_path: Path) -> None:
    """Somebody else copied the parents into one image; the leaf goes over to it."""
    chain = chain_of(tmp_path, "a", "b", "c")
    endpoint = qsd.open(DISK, chain, read_only=False)
    whole = image(tmp_path, "whole")
    with Writer(endpoint.nbd, qemu_content_of(chain)) as writer:
        subprocess.run(
            ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "qcow2", chain[1].path, whole.path],
            check=True,
        )
        qsd.refresh(DISK, [chain[0], whole])
        for each in chain[1:]:
            each.path.unlink()
        seen = writer.rounds
        while writer.rounds < seen + 20 and writer.problem is None:
            time.sleep(0.01)
    qsd.close(DISK)
    link = UTIL.info(chain[0].path).parent
    assert link is not None
    assert link.name == whole.path.name
    assert qemu_content([chain[0], whole]) == writer.data
    check([chain[0], whole])
