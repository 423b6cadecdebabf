"""Datapaths that merge images themselves do so under a client that writes and verifies."""

from __future__ import annotations

import pytest

from sm.datapath.base import CommittingDatapath, DatapathFailed, Job, JobState
from sm.errors import Busy
from tests.datapath.clients import Writer, content
from tests.datapath.contract.subjects import SIZE, TAKING_LEAVES, Subject
from tests.datapath.contract.test_serving import DISK
from tests.support.patience import until


def opened(subject: Subject) -> CommittingDatapath:
    """The datapath as one that commits."""
    datapath = subject.datapath()
    assert isinstance(datapath, CommittingDatapath)
    return datapath


def end_of(datapath: CommittingDatapath) -> Job:
    """Poll the commit to its end."""

    def ended() -> Job | None:
        job = datapath.job(DISK)
        assert job is not None
        return None if job.state is JobState.RUNNING else job

    job = until(ended, "the end of the commit")
    assert job is not None
    return job


@pytest.mark.parametrize(("top", "base"), [(1, 2), (1, 3), (2, 3), (1, 4)])
def test_commit(committing: Subject, top: int, base: int) -> None:
    datapath = opened(committing)
    chain, model = committing.chain("a", "b", "c", "d", "e")
    endpoint = datapath.open(DISK, chain, read_only=False)
    merged = chain[top:base]
    # In one go, or from the lowest upwards.
    steps = [chain[top]] if datapath.commits_runs else merged[::-1]
    with Writer(endpoint.nbd, bytes(model)) as writer:
        for each in steps:
            datapath.start_commit(DISK, each, chain[base])
            with pytest.raises(Busy):
                datapath.start_commit(DISK, each, chain[base])
            with pytest.raises(Busy):
                datapath.pause(DISK)
            with pytest.raises(Busy):
                datapath.refresh(DISK, chain)
            assert end_of(opened(committing)).state is JobState.DONE
            datapath.finish_commit(DISK)
        for each in merged:
            each.path.unlink()
        writer.go_on(20)
    assert datapath.job(DISK) is None
    left = [each for each in chain if each not in merged]
    found = datapath.find(DISK)
    assert found is not None
    assert found.chain == tuple(left)
    assert content(endpoint.nbd, SIZE) == writer.data
    datapath.pause(DISK)
    datapath.resume(DISK, left)
    datapath.close(DISK)
    link = committing.util.info(left[top - 1].path).parent
    assert link is not None
    assert (link.name, link.format) == (chain[base].path.name, chain[base].format)
    assert committing.content(left) == writer.data
    committing.check(left)


def test_commit_is_refused_where_it_would_harm(committing: Subject) -> None:
    datapath = opened(committing)
    chain, _ = committing.chain("a", "b", "c")
    datapath.open(DISK, chain, read_only=False)
    for top, base in ((0, 1), (1, 1), (2, 1)):
        with pytest.raises(DatapathFailed):
            datapath.start_commit(DISK, chain[top], chain[base])
    with pytest.raises(DatapathFailed):
        datapath.start_commit(DISK, chain[1], committing.ref("stranger"))
    datapath.pause(DISK)
    with pytest.raises(DatapathFailed):
        datapath.start_commit(DISK, chain[1], chain[2])
    datapath.resume(DISK, chain)
    assert datapath.job(DISK) is None
    datapath.close(DISK)
    datapath.open(DISK, chain, read_only=True)
    with pytest.raises(DatapathFailed):
        datapath.start_commit(DISK, chain[1], chain[2])
    assert datapath.job(DISK) is None


def test_cancel_changes_nothing_and_it_may_be_begun_again(committing: Subject) -> None:
    datapath = opened(committing)
    chain, model = committing.chain("a", "b", "c")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        committing.slow_commits(True)
        for _ in range(3):
            datapath.start_commit(DISK, chain[1], chain[2])
            datapath.cancel_commit(DISK)
            assert end_of(datapath).state is JobState.CANCELLED
            datapath.finish_commit(DISK)
            assert datapath.job(DISK) is None
            writer.go_on(5)
        committing.slow_commits(False)
        datapath.pause(DISK)
        datapath.resume(DISK, chain)
        datapath.start_commit(DISK, chain[1], chain[2])
        assert end_of(datapath).state is JobState.DONE
        datapath.finish_commit(DISK)
        writer.go_on(5)
    datapath.close(DISK)
    left = [chain[0], chain[2]]
    assert committing.content(left) == writer.data
    committing.check(left)


def test_a_close_ends_a_commit(committing: Subject) -> None:
    datapath = opened(committing)
    chain, model = committing.chain("a", "b", "c")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        writer.go_on(5)
    datapath.start_commit(DISK, chain[1], chain[2])
    datapath.close(DISK)
    assert datapath.job(DISK) is None
    assert committing.content(chain) == writer.data
    committing.check(chain)


@pytest.mark.parametrize("committing", TAKING_LEAVES, indirect=True)
def test_snapshot_during_a_commit(committing: Subject) -> None:
    """A new leaf above the image whose parent changes; the commit goes on."""
    datapath = opened(committing)
    chain, model = committing.chain("a", "b", "leaf")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        writer.go_on(5)
        datapath.start_commit(DISK, chain[1], chain[2])
        chain = committing.add_leaf(chain, "snapshot")
        datapath.refresh(DISK, chain)
        writer.go_on(5)
        assert end_of(datapath).state is JobState.DONE
        datapath.finish_commit(DISK)
        chain[2].path.unlink()
        del chain[2]
        datapath.refresh(DISK, chain)
        writer.go_on(5)
    found = datapath.find(DISK)
    assert found is not None
    assert found.chain == tuple(chain)
    datapath.close(DISK)
    link = committing.util.info(chain[1].path).parent
    assert link is not None
    assert link.name == chain[2].path.name
    assert committing.content(chain) == writer.data
    committing.check(chain)
