"""Merges inside tapdisk. After each, the disk and the chain are read by somebody else."""

from __future__ import annotations

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.qcow2.util import Qcow2Util
from sm.datapath.base import DatapathFailed, JobState
from sm.datapath.tapdisk.datapath import TapdiskDatapath
from sm.datapath.tapdisk.life import Patience
from sm.errors import Busy, SmError, Unimplemented, VdiMissing
from sm.process import run
from tests.datapath.clients import Writer
from tests.datapath.tapdisk.fixture import (
    DISK,
    SIZE,
    Tapdisk,
    check,
    closed_content,
    end_of,
    parent_of,
    served_content,
)
from tests.support.patience import patient

UTIL = Qcow2Util(run)
SLOW = 1 << 16
"""Bytes a second: such a commit does not end within a test."""


def test_commit_under_a_writer(tapdisk: Tapdisk) -> None:
    """From the base upwards, until the leaf is over the base; in the middle too."""
    if not tapdisk.real:
        tapdisk.misbehave(generation=2)  # which dies of a name that is not in its chain
    chain, model = tapdisk.chain("qcow2", "a", "b", "c", "d", "e")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    # Into an inner base a real tapdisk of the first generation would do wrong.
    places = [3, 2, 1] if tapdisk.real else [1, 2, 1]
    with Writer(str(endpoint.nbd), bytes(model)) as writer:
        for place in places:
            top, base = chain[place], chain[place + 1]
            datapath.start_commit(DISK, top, base)
            with pytest.raises(Busy):
                datapath.start_commit(DISK, top, base)
            with pytest.raises(Busy):
                datapath.refresh(DISK, chain)
            with pytest.raises(Busy):
                datapath.pause(DISK)
            job = end_of(datapath)
            assert (job.state, job.done) == (JobState.DONE, job.total)
            assert datapath.job(DISK) == job
            assert parent_of(chain[place - 1]) == base.path.name
            datapath.finish_commit(DISK)
            assert datapath.job(DISK) is None
            chain.remove(top)
            top.path.unlink()
            writer.go_on(5)
        datapath.refresh(DISK, chain)
    found = datapath.find(DISK)
    assert found is not None
    assert found.chain == tuple(chain)
    assert served_content(str(endpoint.nbd)) == writer.data
    datapath.close(DISK)
    assert closed_content(chain) == writer.data
    check(chain)


@pytest.mark.parametrize("raw_base", [False, True])
def test_commit_into_the_base_of_any_format(tapdisk: Tapdisk, raw_base: bool) -> None:
    base = ImageRef(tapdisk.images / ("base.raw" if raw_base else "base.qcow2"), "qcow2")
    if raw_base:
        base = ImageRef(base.path, "raw")
        base.path.write_bytes(b"\x05" * SIZE)
    else:
        UTIL.create(base.path, SIZE)
    chain = [base]
    for name in ("middle", "leaf"):
        ref = ImageRef(tapdisk.images / f"{name}.qcow2", "qcow2")
        UTIL.snapshot(ref.path, chain[0], SIZE)
        chain.insert(0, ref)
    before = closed_content(chain)
    datapath = tapdisk.datapath(merges_into_parent=False)
    endpoint = datapath.open(DISK, chain, read_only=False)
    datapath.start_commit(DISK, chain[1], chain[2])
    assert end_of(datapath).state is JobState.DONE
    datapath.finish_commit(DISK)
    assert served_content(str(endpoint.nbd)) == before
    datapath.close(DISK)
    assert closed_content([chain[0], chain[2]]) == before


def test_commit_is_refused_where_it_would_harm(tapdisk: Tapdisk) -> None:
    chain, model = tapdisk.chain("qcow2", "a", "b", "c", "d")
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    stranger = ImageRef(tapdisk.images / "stranger.qcow2", "qcow2")
    for top, base in ((0, 1), (1, 1), (2, 1), (3, 3)):
        with pytest.raises(SmError):
            datapath.start_commit(DISK, chain[top], chain[base])
    with pytest.raises(DatapathFailed, match="not both in the chain"):
        datapath.start_commit(DISK, stranger, chain[2])
    with pytest.raises(Unimplemented, match="one after the other"):
        datapath.start_commit(DISK, chain[1], chain[3])
    with pytest.raises(Unimplemented, match="is not the base of its chain"):
        tapdisk.datapath(merges_into_parent=False).start_commit(DISK, chain[1], chain[2])
    assert datapath.job(DISK) is None
    with pytest.raises(VdiMissing):
        datapath.finish_commit(DISK)
    with pytest.raises(VdiMissing):
        datapath.cancel_commit(DISK)
    datapath.pause(DISK)
    with pytest.raises(DatapathFailed, match="paused"):
        datapath.start_commit(DISK, chain[1], chain[2])
    datapath.resume(DISK, chain)
    datapath.close(DISK)
    datapath.open(DISK, chain, read_only=True)
    with pytest.raises(DatapathFailed, match="read-only"):
        datapath.start_commit(DISK, chain[2], chain[3])
    datapath.close(DISK)
    assert closed_content(chain) == model


def test_an_image_that_is_not_where_the_disk_says_is_never_merged(tapdisk: Tapdisk) -> None:
    """The links on disk are looked at, also when they were right at open."""
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    # An inner image, which qemu keeps open for reading only and does not lock against this.
    data = bytearray(chain[1].path.read_bytes())
    at = data.index(b"a.qcow2")
    data[at : at + 1] = b"x"
    chain[1].path.write_bytes(data)
    with pytest.raises(DatapathFailed, match="is over x"):
        datapath.start_commit(DISK, chain[1], chain[2])
    data[at : at + 1] = b"a"
    chain[1].path.write_bytes(data)
    datapath.close(DISK)
    assert closed_content(chain) == model


def test_a_top_that_is_smaller_than_its_base_is_never_merged(tapdisk: Tapdisk) -> None:
    chain, _ = tapdisk.chain("qcow2", "a", "b", "c")
    small = ImageRef(tapdisk.images / "small.qcow2", "qcow2")
    UTIL.create(small.path, SIZE // 2)
    # As other programs may leave it; ours do not make such a chain.
    argv = ["qemu-img", "rebase", "-u", "-F", "qcow2", "-b", "a.qcow2", str(small.path)]
    run(argv, timeout=patient(30))
    UTIL.set_parent(chain[0].path, small)
    odd = [chain[0], small, chain[2]]
    before = closed_content(odd)
    datapath = tapdisk.datapath()
    datapath.open(DISK, odd, read_only=False)
    with pytest.raises(DatapathFailed, match="would show"):
        datapath.start_commit(DISK, small, chain[2])
    datapath.close(DISK)
    assert closed_content(odd) == before


def test_only_qcow2_is_merged(tapdisk: Tapdisk) -> None:
    chain, _ = tapdisk.chain("vhd", "a", "b", "c")
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    with pytest.raises(Unimplemented, match="merge beside it"):
        datapath.start_commit(DISK, chain[1], chain[2])


@pytest.mark.double_only
def test_cancel_changes_nothing_and_it_may_be_begun_again(tapdisk: Tapdisk) -> None:
    tapdisk.misbehave(speed=SLOW)
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    datapath.start_commit(DISK, chain[1], chain[2])
    datapath.cancel_commit(DISK)
    job = end_of(datapath)
    assert job.state is JobState.CANCELLED
    assert job.done < job.total
    datapath.cancel_commit(DISK)
    assert served_content(str(endpoint.nbd)) == model
    assert parent_of(chain[0]) == chain[1].path.name
    datapath.finish_commit(DISK)
    tapdisk.misbehave()
    datapath.start_commit(DISK, chain[1], chain[2])
    assert end_of(datapath).state is JobState.DONE
    datapath.finish_commit(DISK)
    datapath.close(DISK)
    assert closed_content([chain[0], chain[2]]) == model
    check([chain[0], chain[2]])


@pytest.mark.double_only
def test_it_is_asked_seldom_whatever_the_callers_do(tapdisk: Tapdisk) -> None:
    """Also by several objects, and over restarts of ours: what counts is in the note."""
    tapdisk.misbehave(speed=SLOW)
    chain, _ = tapdisk.chain("qcow2", "a", "b", "c")
    now = [1000.0]
    asked: list[float] = []

    def datapath() -> TapdiskDatapath:
        found = TapdiskDatapath(
            tapdisk.folder,
            control=tapdisk.control,
            binary=tapdisk.binary,
            patience=Patience(),
            clock=lambda: now[0],
        )
        ask = found._jobs._ask
        found._jobs._ask = lambda *args: (asked.append(now[0]), ask(*args))[1]  # type: ignore[method-assign]
        return found

    datapath().open(DISK, chain, read_only=False)
    datapath().start_commit(DISK, chain[1], chain[2])
    for _ in range(200):
        job = datapath().job(DISK)
        assert job is not None
        assert job.state is JobState.RUNNING
        now[0] += 0.5 if now[0] < 1010 else 2.5
    gaps = [later - earlier for earlier, later in zip([1000.0, *asked], asked, strict=False)]
    assert gaps == sorted(gaps)
    assert gaps[0] == 1.0
    assert max(gaps) == 30.0
    assert 15 < len(asked) < 30


def test_found_again_after_our_restart(tapdisk: Tapdisk) -> None:
    chain, model = tapdisk.chain("qcow2", "a", "b", "c")
    tapdisk.datapath().open(DISK, chain, read_only=False)
    tapdisk.datapath().start_commit(DISK, chain[1], chain[2])
    assert end_of(tapdisk.datapath()).state is JobState.DONE
    tapdisk.datapath().finish_commit(DISK)
    tapdisk.datapath().close(DISK)
    assert closed_content([chain[0], chain[2]]) == model
