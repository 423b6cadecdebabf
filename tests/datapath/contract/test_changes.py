"""Clients that write and verify go on while the chain below them changes."""

from __future__ import annotations

import subprocess
import time

import pytest

from sm.datapath.base import DatapathFailed
from tests.datapath.clients import BLOCK, Writer, content, qemu_io
from tests.datapath.contract.subjects import SIZE, Subject
from tests.datapath.contract.test_serving import DISK
from tests.support.patience import patient, until

pytestmark = pytest.mark.one_in(2)

SLOW = 0.3
"""Seconds in which a client that is not held would have done much."""


def test_snapshot(subject: Subject) -> None:
    datapath = subject.datapath()
    chain, model = subject.chain("leaf")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        for number in range(5):
            writer.go_on(5)
            chain = subject.add_leaf(chain, f"base{number}")
            datapath.refresh(DISK, chain)
            frozen = chain[1].path.read_bytes()
            writer.go_on(5)
            assert chain[1].path.read_bytes() == frozen
            datapath.refresh(DISK, chain)
            writer.go_on(5)
    assert content(endpoint.nbd, SIZE) == writer.data
    found = datapath.find(DISK)
    assert found is not None
    assert found.chain == tuple(chain)
    datapath.close(DISK)
    assert subject.content(chain) == writer.data
    subject.check(chain)


def test_parents_changed_beside(subject: Subject) -> None:
    """Somebody else merges images below the leaf; the leaf goes over to what is left."""
    datapath = subject.datapath()
    chain, model = subject.chain("a", "b", "c", "d")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        while len(chain) > 2:
            left = subject.merge_beside(chain)
            writer.go_on(5)
            datapath.refresh(DISK, left)
            for each in set(chain) - set(left):
                each.path.unlink()
            chain = left
            writer.go_on(5)
            link = subject.util.info(chain[0].path).parent
            assert link is not None
            assert link.name == chain[1].path.name
    assert content(endpoint.nbd, SIZE) == writer.data
    datapath.close(DISK)
    assert subject.content(chain) == writer.data
    subject.check(chain)


def test_merge_while_paused(subject: Subject) -> None:
    datapath = subject.datapath()
    chain, model = subject.chain("a", "b", "c", "d", "e")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        while len(chain) > 2:
            writer.go_on(5)
            datapath.pause(DISK)
            datapath.pause(DISK)
            chain = subject.merge_at_rest(chain)
            datapath.resume(DISK, chain)
            datapath.resume(DISK, chain)
            writer.go_on(5)
    assert content(endpoint.nbd, SIZE) == writer.data
    datapath.close(DISK)
    assert subject.content(chain) == writer.data
    subject.check(chain)


def test_snapshot_and_other_names_while_paused(subject: Subject) -> None:
    datapath = subject.datapath()
    chain, model = subject.chain("a", "leaf")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        for number in range(3):
            writer.go_on(5)
            datapath.pause(DISK)
            seen = writer.rounds
            assert subject.content(chain)
            chain = subject.add_leaf(chain, f"base{number}")
            subject.util.set_hidden(chain[1].path, True)
            assert writer.rounds <= seen + 1
            datapath.resume(DISK, chain)
            writer.go_on(5)
    datapath.close(DISK)
    assert subject.content(chain) == writer.data
    assert [subject.util.info(each.path).hidden for each in chain] == [False, *[True] * 3, False]


def test_users_wait_while_it_is_paused(subject: Subject) -> None:
    """Nothing of theirs is done, answered or lost; and others see that it is paused."""
    datapath = subject.datapath()
    chain, model = subject.chain("a", "b")
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        writer.go_on(5)
        datapath.pause(DISK)
        found = subject.datapath().find(DISK)
        assert found is not None
        assert found.paused
        with pytest.raises(DatapathFailed):
            datapath.refresh(DISK, chain)
        seen, before = writer.rounds, [each.path.read_bytes() for each in chain]
        time.sleep(SLOW)
        assert writer.rounds <= seen + 1
        assert [each.path.read_bytes() for each in chain] == before
        subject.check(chain)
        subject.datapath().resume(DISK, chain)
        writer.go_on(5)
        found = datapath.find(DISK)
        assert found is not None
        assert not found.paused
    datapath.close(DISK)
    assert subject.content(chain) == writer.data


def test_a_resume_that_is_refused_leaves_it_paused(subject: Subject) -> None:
    datapath = subject.datapath()
    chain, model = subject.chain("a", "b")
    larger, torn, gone = (subject.ref(name) for name in ("larger", "torn", "gone"))
    subject.util.create(larger.path, 2 * SIZE)
    torn.path.write_bytes(b"no image" * 1000)
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        writer.go_on(5)
        datapath.pause(DISK)
        seen = writer.rounds
        for wrong in ([larger], [chain[0], torn], [torn], [gone, *chain], []):
            with pytest.raises(DatapathFailed):
                datapath.resume(DISK, wrong)
            found = subject.datapath().find(DISK)
            assert found is not None
            assert found.paused
            assert writer.rounds <= seen + 1
        subject.check(chain)
        datapath.resume(DISK, chain)
        writer.go_on(5)
    datapath.close(DISK)
    assert subject.content(chain) == writer.data


def test_a_refresh_that_is_refused_changes_nothing(subject: Subject) -> None:
    datapath = subject.datapath()
    chain, model = subject.chain("a", "b")
    larger, taller, torn = (subject.ref(name) for name in ("larger", "taller", "torn"))
    subject.util.create(larger.path, 2 * SIZE)
    subject.util.snapshot(taller.path, chain[0], 2 * SIZE)
    torn.path.write_bytes(b"no image" * 1000)
    endpoint = datapath.open(DISK, chain, read_only=False)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        for wrong in ([chain[0], torn], [torn, *chain], [taller, *chain], [larger], []):
            with pytest.raises(DatapathFailed):
                datapath.refresh(DISK, wrong)
            writer.go_on(5)
    found = datapath.find(DISK)
    assert found is not None
    assert found.chain == tuple(chain)
    datapath.close(DISK)
    assert subject.content(chain) == writer.data
    subject.check(chain)


def test_closed_while_paused(subject: Subject) -> None:
    """A write that waits is not done, and not said to be done."""
    datapath = subject.datapath()
    chain, model = subject.chain("a", "b")
    endpoint = datapath.open(DISK, chain, read_only=False)
    client = subprocess.Popen(
        ["qemu-io", "-f", "raw", str(endpoint.nbd)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(f"read -P {model[0]} 0 64k\n")
    assert "read" in client.stdout.readline()
    client.stdout.readline()
    datapath.pause(DISK)
    client.stdin.write(f"write -P 99 0 {BLOCK}\n")
    datapath.close(DISK)
    said, _ = client.communicate(timeout=patient(30))
    assert "wrote" not in said
    assert "failed" in said
    assert datapath.find(DISK) is None
    assert subject.content(chain) == model
    reopened = datapath.open(DISK, chain, read_only=False)
    assert content(reopened.nbd, SIZE) == model


def test_statistics(subject: Subject) -> None:
    """Where a number is known, it is right; over a pause too."""
    datapath = subject.datapath()
    chain, _ = subject.chain("a")
    endpoint = datapath.open(DISK, chain, read_only=False)
    first = datapath.statistics(DISK)
    qemu_io(endpoint.nbd, "write -P 5 0 4M", "flush")
    datapath.pause(DISK)
    datapath.resume(DISK, chain)
    qemu_io(endpoint.nbd, *["read -P 5 0 4M"] * 2, "read 1M 64k")
    last = datapath.statistics(DISK)
    assert first.bytes_read is not None
    assert first.bytes_written is not None
    assert last.bytes_read is not None
    assert last.bytes_written is not None
    # Some datapaths count what they read of tables, and the first look of a client at the disk.
    assert (8 << 20) + BLOCK <= last.bytes_read - first.bytes_read < 10 << 20
    assert 4 << 20 <= last.bytes_written - first.bytes_written < 5 << 20
    if last.reads is not None:
        assert first.reads is not None
        assert last.reads - first.reads >= 3
        assert (first.writes, last.writes) == (0, 1)
    if last.clients is not None:
        until(lambda: datapath.statistics(DISK).clients == 0)
