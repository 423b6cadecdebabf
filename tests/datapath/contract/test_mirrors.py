"""Datapaths that merge their leaf into an image below it do so under a client that writes."""

from __future__ import annotations

import os
import signal

import pytest

from sm.datapath.base import DatapathFailed, Job, JobState, MirroringDatapath, NotInTime
from sm.errors import Busy, SmError
from sm.owner import start_time
from tests.datapath.clients import Writer, content, qemu_io
from tests.datapath.contract.subjects import SIZE, Subject
from tests.datapath.contract.test_serving import DISK
from tests.support.patience import until

LIMIT = 20.0
"""Seconds of a pause; none here takes long, but the machine may be busy."""


def opened(subject: Subject) -> MirroringDatapath:
    """The datapath as one that mirrors."""
    datapath = subject.datapath()
    assert isinstance(datapath, MirroringDatapath)
    return datapath


def found_job(datapath: MirroringDatapath) -> Job:
    """The mirror, which there must be."""
    job = datapath.mirror(DISK)
    assert job is not None
    assert job.state in (JobState.RUNNING, JobState.READY), job
    return job


def until_ready(datapath: MirroringDatapath) -> None:
    """Wait until everything was copied once."""
    until(lambda: found_job(datapath).state is JobState.READY)


@pytest.mark.parametrize("base", [1, 2, 4])
def test_mirror_and_switch(mirroring: Subject, base: int) -> None:
    """The leaf and all between go into the base, which takes the leaf's name."""
    datapath = opened(mirroring)
    chain, model = mirroring.chain("a", "b", "c", "d", "e")
    endpoint = datapath.open(DISK, chain, read_only=False)
    assert datapath.mirror(DISK) is None
    with Writer(endpoint.nbd, bytes(model)) as writer:
        writer.go_on(5)
        datapath.start_mirror(DISK, chain[base])
        for refused in (
            lambda: datapath.start_mirror(DISK, chain[base]),
            lambda: datapath.start_commit(DISK, chain[1], chain[2]),
            lambda: datapath.pause(DISK),
            lambda: datapath.refresh(DISK, chain),
        ):
            with pytest.raises(Busy):
                refused()
        until_ready(opened(mirroring))
        writer.go_on(5)
        opened(mirroring).pause_mirrored(DISK, LIMIT)
        assert datapath.mirror(DISK) is None
        seen = writer.rounds
        assert mirroring.content(chain[base:]) == mirroring.content(chain)
        left = mirroring.take_name(chain, base)
        assert writer.rounds <= seen + 1
        datapath.resume(DISK, left)
        writer.go_on(20)
    found = datapath.find(DISK)
    assert found is not None
    assert (found.chain, found.paused) == (tuple(left), False)
    assert content(endpoint.nbd, SIZE) == writer.data
    datapath.close(DISK)
    assert mirroring.content(left) == writer.data
    mirroring.check(left)


def test_a_mirror_that_is_stopped_changes_nothing(mirroring: Subject) -> None:
    datapath = opened(mirroring)
    chain, model = mirroring.chain("a", "b", "c")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        for ready in (False, True, False):
            datapath.start_mirror(DISK, chain[2])
            if ready:
                until_ready(datapath)
            opened(mirroring).stop_mirror(DISK)
            datapath.stop_mirror(DISK)
            assert datapath.mirror(DISK) is None
            datapath.refresh(DISK, chain)
            writer.go_on(5)
        datapath.start_commit(DISK, chain[1], chain[2])
        job = datapath.job(DISK)
        assert job is not None
        with pytest.raises(Busy):
            datapath.start_mirror(DISK, chain[2])
        datapath.cancel_commit(DISK)
        until(lambda: datapath.job(DISK) != job)
    datapath.close(DISK)
    assert mirroring.content(chain) == writer.data
    mirroring.check(chain)


def test_what_cannot_be_finished_in_time_goes_on_with_the_leaf(mirroring: Subject) -> None:
    datapath = opened(mirroring)
    chain, model = mirroring.chain("a", "b", "c")
    endpoint = datapath.open(DISK, chain, read_only=False)
    assert endpoint.socket is not None
    with Writer(endpoint.nbd, bytes(model)) as writer:
        for ready in (False, True):
            datapath.start_mirror(DISK, chain[2])
            if ready:
                until_ready(datapath)
            with pytest.raises(NotInTime):
                datapath.pause_mirrored(DISK, 0.0)
            assert datapath.mirror(DISK) is None
            found = datapath.find(DISK)
            assert found is not None
            assert (found.paused, found.chain) == (False, tuple(chain))
            assert endpoint.socket.exists()
            datapath.refresh(DISK, chain)
            writer.go_on(5)
    assert content(endpoint.nbd, SIZE) == writer.data
    datapath.close(DISK)
    assert mirroring.content(chain) == writer.data


def test_a_resume_with_the_old_chain_after_the_mirror(mirroring: Subject) -> None:
    """All was ready, and the switch is given up: the leaf still has everything."""
    datapath = opened(mirroring)
    chain, model = mirroring.chain("a", "b", "c")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        writer.go_on(5)
        datapath.start_mirror(DISK, chain[2])
        datapath.pause_mirrored(DISK, LIMIT)
        datapath.resume(DISK, chain)
        writer.go_on(5)
    assert content(endpoint.nbd, SIZE) == writer.data
    datapath.close(DISK)
    assert mirroring.content(chain) == writer.data


def test_a_mirror_is_refused_where_it_would_harm(mirroring: Subject) -> None:
    datapath = opened(mirroring)
    small = mirroring.ref("small")
    mirroring.util.create(small.path, SIZE // 2)
    chain, _ = mirroring.chain("a", "b", "c")
    datapath.open(DISK, chain, read_only=False)
    for base in (chain[0], mirroring.ref("stranger"), small):
        with pytest.raises(DatapathFailed):
            datapath.start_mirror(DISK, base)
    with pytest.raises(SmError):
        datapath.pause_mirrored(DISK, LIMIT)
    datapath.pause(DISK)
    with pytest.raises(DatapathFailed):
        datapath.start_mirror(DISK, chain[1])
    datapath.resume(DISK, chain)
    assert datapath.mirror(DISK) is None
    datapath.close(DISK)
    datapath.open(DISK, chain, read_only=True)
    with pytest.raises(DatapathFailed):
        datapath.start_mirror(DISK, chain[1])


@pytest.mark.parametrize("how", ["close", "kill"])
@pytest.mark.parametrize("paused", [False, True])
def test_an_end_in_the_middle_leaves_the_leaf(mirroring: Subject, how: str, paused: bool) -> None:
    datapath = opened(mirroring)
    chain, model = mirroring.chain("a", "b", "c")
    endpoint = datapath.open(DISK, chain, read_only=False)
    qemu_io(endpoint.nbd, "write -P 7 2M 128k", "flush")
    model[2 << 20 : (2 << 20) + (128 << 10)] = b"\x07" * (128 << 10)
    datapath.start_mirror(DISK, chain[2])
    if paused:
        datapath.pause_mirrored(DISK, LIMIT)
    if how == "kill":
        os.kill(endpoint.pid, signal.SIGKILL)
        until(lambda: start_time(endpoint.pid) is None)
    else:
        datapath.close(DISK)
    assert datapath.mirror(DISK) is None
    assert mirroring.content(chain) == model
    again = datapath.open(DISK, chain, read_only=False)
    assert content(again.nbd, SIZE) == model
    datapath.close(DISK)
    mirroring.check(chain)
