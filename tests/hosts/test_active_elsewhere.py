"""Disks in use on one host while another, the SR's master, snapshots and merges."""

from __future__ import annotations

import threading

import pytest

from sm import activation
from sm.errors import HostUnreachable
from sm.gc.collector import Collector
from tests.datapath.clients import Writer, content, qemu_io
from tests.hosts.disks import SIZE, keep_leaf, layered, verify, verify_tidy
from tests.hosts.hosts import Pool
from tests.support.patience import patient, until
from tests.support.site import MIB, Refused

pytestmark = pytest.mark.one_in(2)


def write_some(writer: Writer) -> None:
    """Let a writer do a few rounds more."""
    rounds = writer.rounds
    until(lambda: writer.rounds >= rounds + 5 or writer.problem is not None)


def test_the_masters_collector_merges_what_another_host_serves(pool: Pool, cow_format: str) -> None:
    """Online through the other host's datapath, or beside it; the guest writes all the time."""
    disk = pool.master.create_vdi(pool.sr, cow_format, SIZE)
    keep_leaf(pool.master, disk)
    uri = pool.second.activate(disk)
    qemu_io(uri, f"write -P 1 0 {2 * MIB}")
    first = bytes([1]) * (2 * MIB) + bytes(SIZE - 2 * MIB)
    kept = pool.master.snapshot(disk)
    merges = []
    with Writer(uri, first) as writer:
        for _ in range(3):
            write_some(writer)
            doomed = pool.master.snapshot(disk)
            pool.master.delete(doomed)
            answer = pool.master.collect(pool.sr)
            merges += [step for step in answer["done"] if step["action"] == "coalesce"]
    # The first lies alone over the kept one; each later one is merged into it.
    through = disk if cow_format == "qcow2" else None
    assert [step["through"] for step in merges] == [through, through]
    assert len(pool.master.chain(pool.sr, disk)) == 3
    assert content(uri, SIZE) == writer.data
    pool.second.deactivate(disk)
    verify(pool.second, pool.sr, disk, bytes(writer.data))
    verify(pool.third, pool.sr, kept, first)
    pool.master.delete(kept)
    keep_leaf(pool.master, disk, keep=False)
    pool.master.collect(pool.sr)
    verify(pool.third, pool.sr, disk, bytes(writer.data))
    verify_tidy(pool, 1)


def test_a_merge_on_the_master_gives_way_to_another_host(pool: Pool, cow_format: str) -> None:
    """Asked for through the master's sm-hostd; the collector is held until the request is there.

    All is merged in the end, whoever comes first: a collector that comes back while the activation
    is under way, or once the disk is active.
    """
    disk, data = layered(pool, cow_format)
    repository = pool.master.repository(pool.sr)
    copying = threading.Event()

    def hold(done: int, total: int) -> None:
        if copying.is_set():
            return
        copying.set()
        asked = pool.master.root / "run" / "gc"
        until(lambda: list(asked.glob("*.yield")), "the request to give way")

    def collect() -> None:
        collector = Collector(repository, hold)
        with collector.alone():
            list(collector.run())

    thread = threading.Thread(target=collect)
    thread.start()
    assert copying.wait(patient(20))
    # A claim that stood to the end of its time limit would have it refused.
    uri = pool.second.activate(disk)
    assert content(uri, SIZE) == data
    qemu_io(uri, f"write -P 9 {4 * MIB} {MIB}")
    thread.join(patient(60))
    assert not thread.is_alive()
    pool.master.collect(pool.sr)
    assert len(pool.master.images(pool.sr)) == 1
    data = data[: 4 * MIB] + bytes([9]) * MIB + data[5 * MIB :]
    assert content(uri, SIZE) == data
    pool.second.deactivate(disk)
    assert pool.master.collect(pool.sr)["done"] == []
    verify(pool.third, pool.sr, disk, data)
    verify_tidy(pool, 1)


def test_leaves_on_two_hosts_above_one_node(pool: Pool) -> None:
    """Merged by neither datapath, as the other would not notice; then by the one that is left."""
    disk, data = layered(pool, "qcow2")
    other = pool.master.clone(disk)
    uri, other_uri = pool.second.activate(disk), pool.third.activate(other)
    answer = pool.master.collect(pool.sr)
    assert [step["action"] for step in answer["done"]] == ["delete"]
    assert "several-users" in {each["code"] for each in answer["waiting"]}
    qemu_io(uri, f"write -P 7 {3 * MIB} 65536")
    assert content(other_uri, SIZE) == data
    pool.third.deactivate(other)
    (step,) = pool.master.collect(pool.sr)["done"]
    assert (step["action"], step["through"]) == ("coalesce", disk)
    verify(pool.third, pool.sr, other, data)
    written = data[: 3 * MIB] + bytes([7]) * 65536 + data[3 * MIB + 65536 :]
    assert content(uri, SIZE) == written
    pool.second.deactivate(disk)
    verify(pool.master, pool.sr, disk, written)
    pool.master.delete(other)
    pool.master.collect(pool.sr)
    verify_tidy(pool, 1)


@pytest.mark.one_in(5)
@pytest.mark.parametrize(
    ("moment", "heard"),
    [
        ("commit_start", False),
        ("commit_start", True),
        ("commit_look", True),
        ("commit_finish", False),
        ("commit_finish", True),
    ],
)
def test_a_host_service_that_dies_in_an_online_commit(
    pool: Pool, moment: str, heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it is asked, or when it has done it: nothing is deleted till it is back."""
    disk, data = layered(pool, "qcow2")
    keep_leaf(pool.master, disk)
    uri = pool.second.activate(disk)
    repository = pool.master.repository(pool.sr)
    call = repository.pool.call_host
    killed = []

    def dying(ref: str, function: str, arguments: dict[str, str]) -> str:
        if function != moment or killed:
            return call(ref, function, arguments)
        killed.append(function)
        if heard:
            call(ref, function, arguments)
        pool.second.kill()
        if heard:
            raise HostUnreachable("the connection broke before the answer")
        return call(ref, function, arguments)

    repository.pool.call_host = dying  # type: ignore[method-assign, assignment]
    collector = Collector(repository)
    with collector.alone():
        assert [step.done.action for step in collector.run()] == ["delete"]
        images = pool.master.images(pool.sr)
        assert {each.code for each in collector.waiting()} <= {"unreachable", "held"}
    assert killed
    assert len(images) == 3
    qemu_io(uri, f"write -P 8 {5 * MIB} 65536")
    data = data[: 5 * MIB] + bytes([8]) * 65536 + data[5 * MIB + 65536 :]
    assert content(uri, SIZE) == data

    answer = pool.master.collect(pool.sr)  # still nobody answers
    assert (answer["done"], pool.master.images(pool.sr)) == ([], images)
    monkeypatch.setattr(activation, "CLAIM_WAIT_SECONDS", 0.5)
    with pytest.raises(Refused) as refused:
        pool.master.snapshot(disk)
    assert refused.value.error["name"] in ("HostUnreachable", "EGAIN")

    pool.second.start()
    pool.master.collect(pool.sr)
    assert len(pool.master.images(pool.sr)) == 2
    assert content(uri, SIZE) == data
    pool.second.deactivate(disk)
    verify(pool.third, pool.sr, disk, data)
    keep_leaf(pool.master, disk, keep=False)
    pool.master.collect(pool.sr)
    verify_tidy(pool, 1)


def test_a_disk_is_taken_from_a_host_only_when_it_does_not_serve_it(pool: Pool) -> None:
    disk = pool.master.create_vdi(pool.sr, "qcow2", SIZE)
    uri = pool.second.activate(disk)
    qemu_io(uri, f"write -P 3 0 {MIB}")
    reset = ("vdi", "reset", disk, "--host", "beta")
    with pytest.raises(Refused, match="in use") as refused:
        pool.master.sm(*reset)
    assert "serves" in refused.value.error["detail"]
    with pytest.raises(Refused, match="RW on host beta"):
        pool.third.activate(disk)

    pool.second.kill()
    with pytest.raises(Refused, match="RW on host beta, which does not answer"):
        pool.third.activate(disk)
    with pytest.raises(Refused) as refused:
        pool.master.sm(*reset)
    assert refused.value.error["name"] == "HostUnreachable"
    assert "host beta" in refused.value.error["detail"]
    (active,) = pool.third.sm("vdi", "show", disk)["active"]
    assert (active["host"], active["state"]) == ("beta", "unknown")

    pool.second.start()
    # What a crash of the datapath leaves: the host key, and nobody behind it.
    (active,) = pool.third.sm("vdi", "show", disk)["active"]
    assert active["state"] == "served"
    qemu_io(uri, "flush")
    kill_process(active["pid"])
    with pytest.raises(Refused, match="where no process serves it"):
        pool.third.activate(disk)
    pool.master.sm(*reset)
    uri = pool.third.activate(disk)
    assert content(uri, SIZE) == bytes([3]) * MIB + bytes(SIZE - MIB)
    pool.third.deactivate(disk)
    verify_tidy(pool, 1)


def kill_process(pid: int) -> None:
    """Kill a process of ours, and wait until it has ended."""
    import os
    import signal

    from sm.owner import start_time

    os.kill(pid, signal.SIGKILL)
    until(lambda: start_time(pid) is None)
