"""What is particular to qemu-storage-daemon as a datapath."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.datapath.base import DatapathFailed
from sm.datapath.qsd.datapath import QsdDatapath
from sm.owner import start_time
from tests.datapath.clients import Writer, content
from tests.datapath.contract.subjects import SIZE, Qsd
from tests.datapath.contract.test_commits import end_of
from tests.datapath.contract.test_serving import DISK, SIBLING
from tests.support.patience import until


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Qsd]:
    """Images, and a daemon that ends with the test."""
    subject = Qsd(tmp_path)
    yield subject
    for served in subject.datapath().served():
        subject.datapath().close(served.disk)


def test_a_daemon_that_was_starting_when_we_ended_is_adopted(subject: Qsd) -> None:
    chain, model = subject.chain("a", "b")
    datapath = QsdDatapath(subject.folder / "run")
    endpoint = datapath.open(DISK, chain, read_only=False)
    note = datapath._notes.read(DISK)
    assert note is not None
    datapath._notes.write(replace(note, pid=0, started=0, boot=""))
    found = subject.datapath().find(DISK)
    assert found is not None
    assert found.endpoint == endpoint
    os.kill(endpoint.pid, signal.SIGKILL)
    until(lambda: start_time(endpoint.pid) is None)
    datapath._notes.write(replace(note, pid=0, started=0, boot=""))
    assert subject.datapath().find(DISK) is None
    assert content(datapath.open(DISK, chain, read_only=False).nbd, SIZE) == model


@pytest.mark.parametrize("refreshed", [True, False])
def test_a_mark_made_beside_is_kept_by_a_refresh(subject: Qsd, refreshed: bool) -> None:
    """The daemon writes back the header of an image above a merge, as it was when it opened it.

    Without the refresh the mark is lost: this is what the refresh is for.
    """
    chain, model = subject.chain("a", "b", "leaf")
    datapath = QsdDatapath(subject.folder / "run")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        writer.go_on(5)
        chain = subject.add_leaf(chain, "base")
        datapath.refresh(DISK, chain)
        subject.util.set_hidden(chain[1].path, True)
        if refreshed:
            datapath.refresh(DISK, chain)
        writer.go_on(5)
        datapath.start_commit(DISK, chain[2], chain[3])
        end_of(datapath)
        datapath.finish_commit(DISK)
        chain[2].path.unlink()
        del chain[2]
        writer.go_on(5)
    assert subject.util.info(chain[1].path).hidden is refreshed
    datapath.close(DISK)
    assert subject.util.info(chain[1].path).hidden is refreshed
    assert subject.content(chain) == writer.data


def test_a_leaf_is_known_by_its_file(subject: Qsd) -> None:
    """Neither another image under its name nor one too many is taken for a change of parents."""
    chain, model = subject.chain("a", "b", "leaf")
    datapath = QsdDatapath(subject.folder / "run")
    endpoint = datapath.open(DISK, chain, read_only=False)
    leaf = chain[0].path
    away = leaf.with_name("away.qcow2")
    leaf.rename(away)
    subject.util.snapshot(leaf, chain[1], SIZE)
    for wrong in (chain, [chain[0], *chain], [chain[0], chain[1], *chain[1:]]):
        with pytest.raises(DatapathFailed, match="not over the old one"):
            datapath.refresh(DISK, wrong)
    datapath.refresh(DISK, [ImageRef(away, "qcow2"), *chain[1:]])
    assert content(endpoint.nbd, SIZE) == model


def test_a_leaf_keeps_its_parents(subject: Qsd) -> None:
    chain, model = subject.chain("a", "leaf")
    datapath = QsdDatapath(subject.folder / "run")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with pytest.raises(DatapathFailed, match="lose its parents"):
        datapath.refresh(DISK, chain[:1])
    assert content(endpoint.nbd, SIZE) == model


def test_a_merge_of_a_smaller_image_is_refused(subject: Qsd) -> None:
    """What lies behind its end would come to light."""
    base, middle, leaf = (subject.ref(name) for name in ("base", "middle", "leaf"))
    subject.util.create(base.path, SIZE)
    subject.util.snapshot(middle.path, base, SIZE)
    subject.util.resize(base.path, 2 * SIZE)
    subject.fill([base], [(SIZE, SIZE, 7)])
    subject.util.snapshot(leaf.path, middle, 2 * SIZE)
    chain = [leaf, middle, base]
    datapath = QsdDatapath(subject.folder / "run")
    endpoint = datapath.open(DISK, chain, read_only=False)
    before = content(endpoint.nbd, 2 * SIZE)
    with pytest.raises(DatapathFailed, match="smaller"):
        datapath.start_commit(DISK, middle, base)
    assert datapath.job(DISK) is None
    datapath.refresh(DISK, chain)
    assert content(endpoint.nbd, 2 * SIZE) == before


def test_a_merge_into_what_another_daemon_reads_is_refused(subject: Qsd) -> None:
    """By the image locks, should we ever ask for it."""
    chain, model = subject.chain("a", "b")
    datapath = QsdDatapath(subject.folder / "run")
    ends = {}
    for disk, name in ((DISK, "one"), (SIBLING, "two")):
        leaf = subject.ref(name)
        subject.util.snapshot(leaf.path, chain[0], SIZE)
        ends[disk] = datapath.open(disk, [leaf, *chain], read_only=False)
    with (
        Writer(ends[DISK].nbd, bytes(model), 1) as first,
        Writer(ends[SIBLING].nbd, bytes(model), 2) as second,
    ):
        for writer in (first, second):
            writer.go_on(5)
        with pytest.raises(DatapathFailed, match="lock"):
            datapath.start_commit(DISK, *chain)
        assert datapath.job(DISK) is None
        for writer in (first, second):
            writer.go_on(5)
    for disk, name, writer in ((DISK, "one", first), (SIBLING, "two", second)):
        datapath.close(disk)
        assert subject.content([subject.ref(name), *chain]) == writer.data
    subject.check(chain)
