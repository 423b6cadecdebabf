"""What every datapath does: serve a chain, be found again, end well or badly."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from sm.datapath.base import Disk
from sm.errors import SmError, VdiInUse, VdiMissing
from sm.owner import start_time
from tests.datapath.clients import Writer, content, export_info, qemu_io
from tests.datapath.contract.subjects import LOCKING, SIZE, SUBJECTS, Subject
from tests.support.patience import until

pytestmark = pytest.mark.one_in(2)

SR = "11111111-1111-4111-8111-111111111111"
DISK = Disk(SR, "22222222-2222-4222-8222-222222222222")
SIBLING = Disk(SR, "33333333-3333-4333-8333-333333333333")


def test_open_serve_close(subject: Subject) -> None:
    datapath = subject.datapath()
    chain, model = subject.chain("a", "b", "c")
    assert subject.content(chain) == model
    endpoint = datapath.open(DISK, chain, read_only=False)
    assert datapath.open(DISK, chain, read_only=False) == endpoint
    assert endpoint.socket is not None
    assert endpoint.socket.is_socket()
    info = export_info(endpoint.nbd)
    assert (info["export-name"], info["export-size"]) == (DISK.vdi, SIZE)
    assert content(endpoint.nbd, SIZE) == model
    qemu_io(endpoint.nbd, "write -P 9 5M 1M", "write -z 3M 1M", "flush", "read -P 9 5M 1M")
    model[5 << 20 : 6 << 20] = b"\x09" * (1 << 20)
    model[3 << 20 : 4 << 20] = bytes(1 << 20)
    with pytest.raises(VdiInUse):
        datapath.open(DISK, chain, read_only=True)
    with pytest.raises(VdiInUse):
        datapath.open(DISK, chain, read_only=False, path=subject.folder / "shown")
    found = datapath.find(DISK)
    assert found is not None
    assert (found.disk, found.datapath) == (DISK, datapath.name)
    assert (found.chain, found.endpoint) == (tuple(chain), endpoint)
    assert (found.read_only, found.paused) == (False, False)
    datapath.close(DISK)
    assert datapath.find(DISK) is None
    assert start_time(endpoint.pid) is None
    assert not endpoint.socket.exists()
    assert subject.content(chain) == model
    datapath.close(DISK)
    subject.check(chain)


def test_what_was_served_is_served_again(subject: Subject) -> None:
    datapath = subject.datapath()
    chain, model = subject.chain("a", "b")
    for seed in range(2):
        endpoint = datapath.open(DISK, chain, read_only=False)
        with Writer(endpoint.nbd, bytes(model), seed) as writer:
            writer.go_on(10)
        datapath.close(DISK)
        model = writer.data
        assert subject.content(chain) == model


def test_read_only_writes_nothing(subject: Subject) -> None:
    datapath = subject.datapath()
    chain, model = subject.chain("a", "b")
    for each in chain:
        each.path.chmod(0o400)
    before = [each.path.read_bytes() for each in chain]
    endpoint = datapath.open(DISK, chain, read_only=True)
    assert content(endpoint.nbd, SIZE) == model
    with pytest.raises(subprocess.CalledProcessError):
        qemu_io(endpoint.nbd, "write -P 9 0 64k")
    datapath.refresh(DISK, chain)
    assert content(endpoint.nbd, SIZE) == model
    datapath.pause(DISK)
    datapath.resume(DISK, chain)
    assert content(endpoint.nbd, SIZE) == model
    datapath.close(DISK)
    assert [each.path.read_bytes() for each in chain] == before


@pytest.mark.parametrize("name", SUBJECTS)
def test_odd_names_and_deep_folders(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "a,b =c%20'\"é"
    folder.mkdir()
    subject = SUBJECTS[name](folder)
    chain, model = subject.chain("x,y", "z=1")
    deep = subject.datapath(folder / ("d" * 80))
    try:
        endpoint = deep.open(DISK, chain, read_only=False)
        assert content(endpoint.nbd, SIZE) == model
        deep.pause(DISK)
        deep.resume(DISK, chain)
        assert content(endpoint.nbd, SIZE) == model
    finally:
        deep.close(DISK)


def test_found_again_after_our_restart(subject: Subject) -> None:
    chain, model = subject.chain("a", "b")
    endpoint = subject.datapath().open(DISK, chain, read_only=False)
    again = subject.datapath()
    assert [served.endpoint for served in again.served()] == [endpoint]
    assert again.open(DISK, chain, read_only=False) == endpoint
    assert content(endpoint.nbd, SIZE) == model
    again.close(DISK)
    assert subject.datapath().served() == []


@pytest.mark.parametrize("paused", [False, True])
def test_killed_and_opened_again(subject: Subject, paused: bool) -> None:
    datapath = subject.datapath()
    chain, model = subject.chain("a", "b")
    endpoint = datapath.open(DISK, chain, read_only=False)
    qemu_io(endpoint.nbd, "write -P 7 2M 128k", "flush")
    model[2 << 20 : (2 << 20) + (128 << 10)] = b"\x07" * (128 << 10)
    if paused:
        datapath.pause(DISK)
    os.kill(endpoint.pid, signal.SIGKILL)
    until(lambda: start_time(endpoint.pid) is None)
    again = subject.datapath()
    assert again.find(DISK) is None
    assert again.served() == []
    for call in (
        lambda: again.refresh(DISK, chain),
        lambda: again.pause(DISK),
        lambda: again.resume(DISK, chain),
        lambda: again.statistics(DISK),
    ):
        with pytest.raises(VdiMissing):
            call()
    assert subject.content(chain) == model
    reopened = again.open(DISK, chain, read_only=False)
    assert reopened.pid != endpoint.pid
    assert content(reopened.nbd, SIZE) == model
    again.close(DISK)
    subject.check(chain)


@pytest.mark.parametrize("fault", ["missing", "torn"])
def test_a_chain_that_cannot_be_opened_leaves_nothing(subject: Subject, fault: str) -> None:
    datapath = subject.datapath()
    chain, _ = subject.chain("a", "b")
    chain[1].path.unlink()
    if fault == "torn":
        chain[1].path.write_bytes(bytes(100_000))
    before = chain[0].path.read_bytes()
    with pytest.raises(SmError):
        datapath.open(DISK, chain, read_only=False)
    assert datapath.find(DISK) is None
    assert not list((subject.folder / "run").glob("*/*"))
    assert chain[0].path.read_bytes() == before


@pytest.mark.parametrize("subject", LOCKING, indirect=True)
def test_one_writer(subject: Subject) -> None:
    """Of what locks nothing, only the pool keeps a second writer away."""
    datapath = subject.datapath()
    chain, _ = subject.chain("a", "b")
    datapath.open(DISK, chain, read_only=False)
    other = subject.datapath(subject.folder / "other")
    with pytest.raises(SmError):
        other.open(DISK, chain, read_only=False)
    datapath.pause(DISK)
    other.open(DISK, chain, read_only=False)
    with pytest.raises(SmError):
        datapath.resume(DISK, chain)
    other.close(DISK)
    datapath.resume(DISK, chain)
    datapath.close(DISK)


def test_two_leaves_over_one_base(subject: Subject) -> None:
    """Served by two processes, both written; the base is not."""
    datapath = subject.datapath()
    below, model = subject.chain("a", "b")
    leaves = []
    for name in ("one", "two"):
        leaf = subject.ref(name)
        subject.util.snapshot(leaf.path, below[0], SIZE)
        leaves.append(leaf)
    before = [each.path.read_bytes() for each in below]
    ends = [
        datapath.open(disk, [leaf, *below], read_only=False)
        for disk, leaf in zip((DISK, SIBLING), leaves, strict=True)
    ]
    assert ends[0].pid != ends[1].pid
    assert len(datapath.served()) == 2
    with (
        Writer(ends[0].nbd, bytes(model), 1) as first,
        Writer(ends[1].nbd, bytes(model), 2) as second,
    ):
        first.go_on(10)
        datapath.refresh(DISK, [leaves[0], *below])
        datapath.pause(SIBLING)
        first.go_on(10)
        datapath.resume(SIBLING, [leaves[1], *below])
        second.go_on(20)
    for disk, leaf, writer in zip((DISK, SIBLING), leaves, (first, second), strict=True):
        datapath.close(disk)
        assert subject.content([leaf, *below]) == writer.data
    assert [each.path.read_bytes() for each in below] == before
    subject.check([*leaves, *below])


def test_a_sibling_at_rest_may_be_relinked(subject: Subject) -> None:
    """Over the parents of a disk that is served and written."""
    datapath = subject.datapath()
    chain, model = subject.chain("a", "b", "c")
    sibling = subject.ref("sibling")
    subject.util.snapshot(sibling.path, chain[1], SIZE)
    subject.fill([sibling, *chain[1:]], [(1 << 20, 1 << 20, 77)])
    expected = subject.content([sibling, *chain[1:]])
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        writer.go_on(5)
        double = subject.ref("double")
        double.path.write_bytes(chain[1].path.read_bytes())
        subject.util.set_parent(sibling.path, double)
        writer.go_on(5)
    datapath.close(DISK)
    assert subject.content([sibling, double, *chain[2:]]) == expected
    assert subject.content(chain) == writer.data
