"""A disk in use on one host while another, the SR's master, merges the disk's own image."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sm.errors import HostUnreachable, SmError
from sm.gc.collector import Collector
from sm.hosts.calls import ask
from tests.datapath.clients import Writer, content
from tests.hosts.disks import SIZE, layered, verify, verify_tidy
from tests.hosts.hosts import Pool
from tests.support.patience import patient

pytestmark = pytest.mark.one_in(2)

CHILD = str(Path(__file__).with_name("switch_child.py"))
Call = Callable[[str, str, dict[str, str]], str]


def collect(pool: Pool, intercept: Callable[[Call, str, str, dict[str, str]], str]) -> set[str]:
    """Run the master's collector, with its requests to hosts intercepted; why work waits."""
    repository = pool.master.repository(pool.sr)
    call = repository.pool.call_host

    def intercepted(ref: str, function: str, arguments: dict[str, str]) -> str:
        return intercept(call, ref, function, arguments)

    repository.pool.call_host = intercepted  # type: ignore[method-assign, assignment]
    collector = Collector(repository)
    with collector.alone():
        list(collector.run())
        return {each.code for each in collector.waiting()}


def test_the_master_merges_a_leaf_that_another_host_serves(pool: Pool, cow_format: str) -> None:
    """The host that serves it is not the master, and gives the image its new name."""
    disk, data = layered(pool, cow_format)
    uri = pool.second.activate(disk)
    with Writer(uri, data) as writer:
        writer.go_on(5)
        steps = pool.master.collect(pool.sr)["done"]
        writer.go_on(5)
    (step,) = [step for step in steps if step["action"] == "leaf-coalesce"]
    assert (step["leaf"], step["through"]) == (disk, disk)
    assert step["pause_seconds"] > 0
    assert content(uri, SIZE) == writer.data
    pool.second.deactivate(disk)
    verify(pool.third, pool.sr, disk, bytes(writer.data))
    verify_tidy(pool, 1)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("moment", "heard"),
    [
        ("mirror_start", False),
        ("mirror_start", True),
        ("mirror_look", True),
        ("leaf_switch", False),
        ("leaf_switch", True),
    ],
)
def test_a_host_service_that_dies_between(pool: Pool, moment: str, heard: bool) -> None:
    """Killed before it is asked, or when it has done it: nothing is deleted until it is back."""
    disk, data = layered(pool, "qcow2")
    uri = pool.second.activate(disk)
    killed = []

    def dying(call: Call, ref: str, function: str, arguments: dict[str, str]) -> str:
        if function != moment or killed:
            return call(ref, function, arguments)
        killed.append(function)
        if heard:
            call(ref, function, arguments)
        pool.second.kill()
        if heard:
            raise HostUnreachable("the connection broke before the answer")
        return call(ref, function, arguments)

    with Writer(uri, data) as writer:
        assert collect(pool, dying) <= {"unreachable", "held"}
        switched = (moment, heard) == ("leaf_switch", True)
        assert len(pool.master.images(pool.sr)) == 3 - switched
        writer.go_on(5)
        assert pool.master.collect(pool.sr)["done"] == []
        assert len(pool.master.images(pool.sr)) == 3 - switched
        pool.second.start()
        pool.master.collect(pool.sr)
        writer.go_on(5)
    verify_tidy(pool, 1)
    assert content(uri, SIZE) == writer.data
    pool.second.deactivate(disk)
    verify(pool.third, pool.sr, disk, bytes(writer.data))


@pytest.mark.one_in(6)
@pytest.mark.parametrize("step", ["unhide", "supersede", "resume"])
def test_a_host_service_that_dies_with_users_held(pool: Pool, cow_format: str, step: str) -> None:
    """Its next start lets them go on, before the master comes: with the image that has the name."""
    disk, data = layered(pool, cow_format)
    uri = pool.second.activate(disk)
    killed = []

    def dying(call: Call, ref: str, function: str, arguments: dict[str, str]) -> str:
        if function == "leaf_switch":
            pool.second.kill()
            request = json.dumps({**arguments, "vdi_uuid": disk, "sr_uuid": pool.sr})
            command = [CHILD, str(pool.second.root), f"leaf-switch: {step}", request]
            ended = subprocess.run([sys.executable, *command], check=False, timeout=patient(60))
            killed.append(ended.returncode)
            raise HostUnreachable("the connection broke before the answer")
        return call(ref, function, arguments)

    with Writer(uri, data) as writer:
        writer.go_on(2)
        assert collect(pool, dying) <= {"unreachable", "held"}
        assert killed == [-signal.SIGKILL]
        seen = writer.rounds
        pool.second.start()
        writer.go_on(5)
        assert writer.rounds >= seen + 5
        pool.master.collect(pool.sr)
        writer.go_on(5)
    verify_tidy(pool, 1)
    assert content(uri, SIZE) == writer.data
    pool.second.deactivate(disk)
    verify(pool.third, pool.sr, disk, bytes(writer.data))


def test_a_request_that_comes_too_late_does_nothing(pool: Pool) -> None:
    """Whoever sent it has given up the merge, and perhaps begun another."""
    disk, data = layered(pool, "qcow2")
    uri = pool.second.activate(disk)
    late: list[dict[str, str]] = []

    def recording(call: Call, ref: str, function: str, arguments: dict[str, str]) -> str:
        if function == "leaf_switch":
            late.append(arguments)
            raise SmError("not now")
        return call(ref, function, arguments)

    assert "failed" in collect(pool, recording)
    (arguments,) = late
    repository = pool.master.repository(pool.sr)
    before = pool.master.chain(pool.sr, disk)
    for function in ("leaf_switch", "mirror_start"):
        request = {key: value for key, value in arguments.items() if key != "sr_uuid"}
        with pytest.raises(SmError, match="no longer wanted"):
            ask(repository, pool.second.ref, function, **request)
    assert pool.master.chain(pool.sr, disk) == before
    assert content(uri, SIZE) == data
    pool.second.deactivate(disk)
    pool.master.collect(pool.sr)
    verify(pool.third, pool.sr, disk, data)
    verify_tidy(pool, 1)
