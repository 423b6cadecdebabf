"""What tapdisk does wrong in a merge, and what is believed of it then.

After each, the disk and the chain on the storage are read by somebody else.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.qcow2.util import Qcow2Util
from sm.datapath.base import DatapathFailed, JobState, OutcomeUnknown
from sm.datapath.tapdisk.datapath import TapdiskDatapath
from sm.datapath.tapdisk.wire import Kind
from sm.errors import Busy, Unimplemented
from sm.owner import start_time
from sm.process import run
from tests.datapath.tapdisk.fixture import (
    DISK,
    PATIENCE,
    SIZE,
    SOON_UNANSWERED,
    Tapdisk,
    check,
    closed_content,
    control_of,
    end_of,
    is_free,
    parent_of,
    served_content,
)
from tests.support.patience import until

UTIL = Qcow2Util(run)
SLOW = 1 << 16
"""Bytes a second: such a commit does not end within a test."""


@pytest.mark.double_only
@pytest.mark.parametrize("really", [True, False])
def test_an_end_that_somebody_else_saw_is_decided_by_the_disk(
    tapdisk: Tapdisk, really: bool
) -> None:
    """`undefined`: after a merge that is on disk, and after one that failed."""
    tapdisk.misbehave(
        **({"end_unseen": 1} if really else {"end_unseen": 1, "job_fails": 1, "speed": SLOW})
    )
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    datapath.start_commit(DISK, chain[1], chain[2])
    job = end_of(datapath)
    datapath.finish_commit(DISK)
    datapath.close(DISK)
    if really:
        assert job.state is JobState.DONE
        assert closed_content([chain[0], chain[2]]) == model
    else:
        assert job.state is JobState.FAILED
        assert parent_of(chain[0]) == chain[1].path.name
    assert closed_content(chain[:1] + chain[2:] if really else chain) == model


def test_the_end_is_told_once(tapdisk: Tapdisk) -> None:
    """Somebody asks beside us, and takes the end away."""
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    control = control_of(tapdisk, datapath)
    datapath.start_commit(DISK, chain[1], chain[2])

    def concluded() -> bool:
        seen = control.query(0).status
        assert seen != "undefined"
        return seen == "concluded"

    until(concluded, "the end of the commit")
    assert control.query(0).status == "undefined"
    assert end_of(datapath).state is JobState.DONE
    datapath.finish_commit(DISK)
    datapath.close(DISK)
    assert closed_content([chain[0], chain[2]]) == model


@pytest.mark.double_only
def test_an_end_before_the_end_is_none(tapdisk: Tapdisk) -> None:
    """`concluded` with current < total: failed, whatever the disk says."""
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    tapdisk.misbehave(short_end=1)
    datapath.start_commit(DISK, chain[1], chain[2])
    job = end_of(datapath)
    assert job.state is JobState.FAILED
    assert f"after {SIZE - 65536} of {SIZE} bytes" in job.error
    # The recovery: the merged image still has everything.
    tapdisk.misbehave()
    datapath.finish_commit(DISK)
    datapath.refresh(DISK, chain)
    assert parent_of(chain[0]) == chain[1].path.name
    datapath.start_commit(DISK, chain[1], chain[2])
    assert end_of(datapath).state is JobState.DONE
    datapath.finish_commit(DISK)
    datapath.close(DISK)
    assert closed_content([chain[0], chain[2]]) == model


@pytest.mark.double_only
def test_a_job_that_fails(tapdisk: Tapdisk) -> None:
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    tapdisk.misbehave(job_fails=1, speed=SLOW)
    datapath.start_commit(DISK, chain[1], chain[2])
    job = end_of(datapath)
    assert job.state is JobState.FAILED
    assert "still over b.qcow2" in job.error
    assert served_content(str(endpoint.nbd)) == model
    datapath.finish_commit(DISK)
    datapath.close(DISK)
    assert closed_content(chain) == model


@pytest.mark.double_only
@pytest.mark.parametrize("generation", [3, 4])
def test_success_without_a_job(tapdisk: Tapdisk, generation: int) -> None:
    tapdisk.misbehave(no_job=1, generation=generation)
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    datapath.start_commit(DISK, chain[1], chain[2])
    job = end_of(datapath)
    assert job.state is JobState.FAILED
    assert "never began" in job.error
    datapath.finish_commit(DISK)
    datapath.close(DISK)
    assert closed_content(chain) == model


@pytest.mark.double_only
def test_a_merge_into_the_root_instead_of_the_parent_is_seen(tapdisk: Tapdisk) -> None:
    """The first generation, taken for a later one. The disk is right, and so is what is told."""
    tapdisk.misbehave(generation=1)
    chain, model = tapdisk.chain("qcow2", "a", "b", "c", "d")
    datapath = tapdisk.datapath(merges_into_parent=True)
    endpoint = datapath.open(DISK, chain, read_only=False)
    datapath.start_commit(DISK, chain[1], chain[2])
    job = end_of(datapath)
    assert job.state is JobState.FAILED
    assert "is over a.qcow2 (qcow2) now, instead of b.qcow2" in job.error
    assert served_content(str(endpoint.nbd)) == model
    datapath.finish_commit(DISK)
    datapath.refresh(DISK, chain)
    assert served_content(str(endpoint.nbd)) == model
    datapath.close(DISK)
    assert closed_content(chain) == model


@pytest.mark.double_only
def test_death_in_the_middle(tapdisk: Tapdisk) -> None:
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    tapdisk.misbehave(dies=1, speed=1 << 20)
    datapath.start_commit(DISK, chain[1], chain[2])
    # It is asked when the time for that has come, and dies of the question.
    until(lambda: unknown(datapath), "the death that the question brings")
    until(lambda: start_time(endpoint.pid) is None, "its death")
    assert datapath.job(DISK) is None
    assert datapath.find(DISK) is None
    tapdisk.misbehave()
    let_go(chain)
    assert parent_of(chain[0]) == chain[1].path.name
    assert closed_content(chain) == model
    UTIL.repair(chain[2].path)
    endpoint = datapath.open(DISK, chain, read_only=False)
    assert datapath.job(DISK) is None
    datapath.start_commit(DISK, chain[1], chain[2])
    assert end_of(datapath).state is JobState.DONE
    datapath.finish_commit(DISK)
    datapath.close(DISK)
    assert closed_content([chain[0], chain[2]]) == model
    check([chain[0], chain[2]])


@pytest.mark.double_only
def test_too_late_to_cancel(tapdisk: Tapdisk) -> None:
    tapdisk.misbehave(cancel_busy=1)
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    datapath.start_commit(DISK, chain[1], chain[2])
    with pytest.raises(Busy, match="about to end"):
        datapath.cancel_commit(DISK)
    assert end_of(datapath).state is JobState.DONE
    datapath.finish_commit(DISK)
    datapath.close(DISK)
    assert closed_content([chain[0], chain[2]]) == model


@pytest.mark.double_only
def test_a_cancel_that_is_answered_with_an_error_and_works(tapdisk: Tapdisk) -> None:
    """As the first two generations do when they wait for its end."""
    tapdisk.misbehave(cancel_as_error=1, speed=SLOW)
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    datapath.start_commit(DISK, chain[1], chain[2])
    datapath.cancel_commit(DISK)
    assert end_of(datapath).state is JobState.CANCELLED
    datapath.close(DISK)
    assert closed_content(chain) == model


@pytest.mark.double_only
def test_a_job_that_a_pause_ended(tapdisk: Tapdisk) -> None:
    """Somebody pauses and resumes beside us."""
    tapdisk.misbehave(speed=SLOW)
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    control = control_of(tapdisk, datapath)
    datapath.start_commit(DISK, chain[1], chain[2])
    control.pause(0, PATIENCE.pause)
    control.resume(0, "", PATIENCE.resume)
    job = end_of(datapath)
    assert job.state is JobState.FAILED
    assert "still over b.qcow2" in job.error
    datapath.finish_commit(DISK)
    assert served_content(str(endpoint.nbd)) == model


@pytest.mark.double_only
def test_a_job_of_somebody_else(tapdisk: Tapdisk) -> None:
    tapdisk.misbehave(speed=SLOW)
    chain, _ = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    control = control_of(tapdisk, datapath)
    control.commit(0, str(chain[1].path))
    with pytest.raises(Busy, match="not ours"):
        datapath.start_commit(DISK, chain[1], chain[2])
    assert datapath.job(DISK) is None
    control.cancel(0)
    until(lambda: control.query(0).status == "undefined")
    tapdisk.misbehave()
    datapath.start_commit(DISK, chain[1], chain[2])
    assert end_of(datapath).state is JobState.DONE


@pytest.mark.double_only
def test_a_tapdisk_that_cannot_merge(tapdisk: Tapdisk) -> None:
    """As upstream: the messages are unknown to it."""
    tapdisk.misbehave(upstream=1)
    chain, _ = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    with pytest.raises(Unimplemented, match="cannot merge"):
        datapath.start_commit(DISK, chain[1], chain[2])
    assert datapath.job(DISK) is None


def unknown(datapath: TapdiskDatapath) -> str:
    """Why it is not known how its commit stands; nothing, where it is known."""
    job = datapath.job(DISK)
    assert job is not None
    return job.error if job.state is JobState.UNKNOWN else ""


def let_go(chain: Sequence[ImageRef]) -> None:
    """Wait until what held the images for a double that was killed has ended, too."""
    until(lambda: all(map(is_free, chain)), "the end of those who have the images open")


@pytest.mark.double_only
def test_a_tapdisk_that_hangs(tapdisk: Tapdisk) -> None:
    """The lost wake-up: all of it stands still. It is said so, and closing still ends it."""
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    endpoint = tapdisk.datapath().open(DISK, chain, read_only=False)
    tapdisk.misbehave(query_hangs=1)
    tapdisk.datapath().start_commit(DISK, chain[1], chain[2])
    datapath = tapdisk.datapath(patience=SOON_UNANSWERED)
    said = until(lambda: unknown(datapath), "that the question is not answered")
    assert "must be ended by hand" in said
    assert tapdisk.requests(Kind.QUERY) == 1
    assert unknown(datapath)
    assert tapdisk.requests(Kind.QUERY) == 1, "it stands still: nothing more can arrive"
    with pytest.raises(OutcomeUnknown):
        datapath.find(DISK)
    assert [each.disk for each in datapath.served()] == [DISK]
    with pytest.raises(DatapathFailed, match="had to be killed"):
        datapath.close(DISK)
    assert start_time(endpoint.pid) is None
    assert datapath.served() == []
    datapath.close(DISK)
    let_go(chain)
    UTIL.repair(chain[2].path)
    left = chain if parent_of(chain[0]) == "b.qcow2" else [chain[0], chain[2]]
    assert closed_content(left) == model


@pytest.mark.double_only
def test_a_close_ends_it(tapdisk: Tapdisk) -> None:
    tapdisk.misbehave(speed=SLOW)
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    datapath.start_commit(DISK, chain[1], chain[2])
    datapath.close(DISK)
    assert datapath.job(DISK) is None
    assert closed_content(chain) == model
    check(chain)
