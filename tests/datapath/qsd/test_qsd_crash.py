"""Our process killed at every command that changes the daemon: the next one goes on from there."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.datapath.base import JobState
from sm.datapath.qsd.datapath import QsdDatapath
from tests.datapath.clients import Writer, content, qemu_io
from tests.datapath.contract.subjects import SIZE, Qsd
from tests.datapath.contract.test_serving import DISK
from tests.datapath.qsd.crash import Action, killed_at

pytestmark = pytest.mark.one_in(2)


@pytest.fixture
def subject(tmp_path: Path) -> Qsd:
    """Images and datapaths in one folder."""
    return Qsd(tmp_path)


def files(chain: list[ImageRef]) -> set[int]:
    """The images themselves, whatever their names."""
    return {each.path.stat().st_ino for each in chain}


def open_images(pid: int) -> set[int]:
    """The images that a process has open, deleted ones too."""
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in this moment, as a socket is
            if ".qcow2" in str(each.readlink()):
                found.add(each.stat().st_ino)
    return found


def is_paused(datapath: QsdDatapath) -> bool:
    """As the notes have it."""
    found = datapath.find(DISK)
    assert found is not None
    return found.paused


def action_of(name: str, chain: list[ImageRef]) -> Action:
    """`pause`, or `resume`."""
    if name == "pause":
        return lambda datapath: datapath.pause(DISK)
    return lambda datapath: datapath.resume(DISK, chain)


@pytest.mark.parametrize("name", ["pause", "resume"])
def test_pause_and_resume_are_finished_by_the_next(subject: Qsd, name: str) -> None:
    folder = subject.folder / "run"
    datapath = QsdDatapath(folder)
    chain, model = subject.chain("a", "b", "c", "d")
    endpoint = datapath.open(DISK, chain, read_only=False)
    action = action_of(name, chain)
    points = 0
    with Writer(endpoint.nbd, bytes(model)) as writer:
        writer.go_on(1)
        for point in count():
            if name == "resume":
                datapath.pause(DISK)
            if not killed_at(point, folder, action):
                datapath.resume(DISK, chain)
                break
            points += 1
            assert is_paused(datapath)
            if point % 2:
                datapath.pause(DISK)
                assert open_images(endpoint.pid) == set()
                seen = writer.rounds
                subject.check(chain)
                if len(chain) > 2 and point > 8:
                    chain[:] = subject.merge_at_rest(chain)
                assert writer.rounds <= seen + 1
            datapath.resume(DISK, chain)
            assert not is_paused(datapath)
            assert open_images(endpoint.pid) == files(chain)
            writer.go_on(3)
            assert content(endpoint.nbd, SIZE)
        writer.go_on(3)
    assert points > 16
    datapath.close(DISK)
    assert subject.content(chain) == writer.data
    subject.check(chain)


@pytest.mark.parametrize("name", ["pause", "resume"])
def test_a_disk_between_the_two_may_be_closed(subject: Qsd, name: str) -> None:
    folder = subject.folder / "run"
    datapath = QsdDatapath(folder)
    chain, model = subject.chain("a", "b")
    for point in count():
        endpoint = datapath.open(DISK, chain, read_only=False)
        at, byte = point << 16, point + 1
        qemu_io(endpoint.nbd, f"write -P {byte} {at} 64k")
        model[at : at + (1 << 16)] = bytes([byte]) * (1 << 16)
        if name == "resume":
            datapath.pause(DISK)
        killed = killed_at(point, folder, action_of(name, chain))
        datapath.close(DISK)
        assert not list(folder.glob("*/*"))
        assert subject.content(chain) == model
        if not killed:
            break
    assert point > 16
    subject.check(chain)


def refresh(chain: list[ImageRef], datapath: QsdDatapath) -> None:
    """Go over to a chain."""
    datapath.refresh(DISK, chain)


def test_refresh_is_finished_by_the_next(subject: Qsd) -> None:
    """With a new leaf, and with the same parents anew."""
    folder = subject.folder / "run"
    datapath = QsdDatapath(folder)
    chain, model = subject.chain("a", "leaf")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        for grow in (True, False):
            for point in count():
                if grow:
                    chain = subject.add_leaf(chain, f"base{point}")
                killed = killed_at(point, folder, partial(refresh, chain))
                writer.go_on(2)
                datapath.refresh(DISK, chain)
                found = datapath.find(DISK)
                assert found is not None
                assert found.chain == tuple(chain)
                assert open_images(endpoint.pid) == files(chain)
                writer.go_on(2)
                if grow and len(chain) > 3:
                    datapath.pause(DISK)
                    chain = subject.merge_at_rest(chain)
                    datapath.resume(DISK, chain)
                if not killed:
                    break
            assert point > 5
    datapath.close(DISK)
    assert subject.content(chain) == writer.data
    subject.check(chain)


def commit(chain: list[ImageRef], datapath: QsdDatapath) -> None:
    """Begin a merge where there is none, and see it to its end."""
    if datapath.job(DISK) is None:
        datapath.start_commit(DISK, chain[1], chain[2])
    while True:
        job = datapath.job(DISK)
        assert job is not None
        if job.state is not JobState.RUNNING:
            break
        time.sleep(0.002)
    datapath.finish_commit(DISK)
    if job.state is JobState.FAILED:
        assert job.error == "the daemon did not begin it"
        commit(chain, datapath)
    else:
        assert job.state is JobState.DONE


def test_a_commit_is_finished_by_the_next(subject: Qsd) -> None:
    folder = subject.folder / "run"
    datapath = QsdDatapath(folder)
    chain, model = subject.chain("a", "b", "leaf")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        for point in count():
            killed = killed_at(point, folder, partial(commit, chain))
            found = datapath.find(DISK)
            assert found is not None
            if found.chain == tuple(chain):
                commit(chain, datapath)
            chain[1].path.unlink()
            del chain[1]
            assert open_images(endpoint.pid) == files(chain)
            writer.go_on(2)
            chain = subject.add_leaf(chain, f"base{point}")
            datapath.refresh(DISK, chain)
            datapath.refresh(DISK, chain)
            if not killed:
                break
    assert point > 8
    datapath.close(DISK)
    assert subject.content(chain) == writer.data
    subject.check(chain)
