"""The daemon killed on purpose in each window of a merge: the disk reads as before."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.qcow2.util import Qcow2Util
from sm.datapath.base import Disk, JobState
from sm.datapath.qsd import commit
from sm.datapath.qsd.datapath import QsdDatapath
from sm.datapath.qsd.qmp import Qmp
from sm.datapath.qsd.record import merge_of
from sm.datapath.sockets import socket_folder
from sm.owner import start_time
from sm.process import run
from tests.cowutil.contract.subjects import qemu_content
from tests.cowutil.contract.subjects import qemu_io as write_offline
from tests.datapath.clients import qemu_io
from tests.datapath.qsd.crash import StopBefore, Stopped
from tests.support.patience import patient, until

SIZE = 16 << 20
DISK = Disk("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
UTIL = Qcow2Util(run)

Window = Callable[[Qmp, commit.Merge], None]


@pytest.fixture
def qsd(tmp_path: Path) -> Iterator[QsdDatapath]:
    """A datapath whose daemons end with the test."""
    datapath = QsdDatapath(tmp_path / "run")
    yield datapath
    datapath.close(DISK)


def make_chain(folder: Path) -> list[ImageRef]:
    """Leaf over inner over base, each with data of its own that overlaps its neighbour's."""
    refs = [ImageRef(folder / f"{name}.qcow2", "qcow2") for name in ("leaf", "inner", "base")]
    UTIL.create(refs[2].path, SIZE)
    write_offline(refs[2:], "write -P 1 0 8M")
    UTIL.snapshot(refs[1].path, refs[2], SIZE)
    write_offline(refs[1:], "write -P 2 4M 8M", "write -z 1M 64k")
    UTIL.snapshot(refs[0].path, refs[1], SIZE)
    write_offline(refs, "write -P 3 6M 1M")
    return refs


def monitor(tmp_path: Path) -> Qmp:
    """The daemon's monitor, beside the datapath."""
    return Qmp(socket_folder(tmp_path / "run" / "qsd") / f"{DISK.vdi}.qmp")


def until_pending(qmp: Qmp) -> None:
    """Wait until all is copied, without the step that the datapath takes then."""

    def pending() -> bool:
        job = commit.find_job(qmp)
        assert job is not None
        return bool(job["status"] == "pending")

    until(pending, "the end of the copy")


def copying(qmp: Qmp, merge: commit.Merge) -> None:
    """The window while data is copied, or just after."""


def pending(qmp: Qmp, merge: commit.Merge) -> None:
    """The window in which all is copied and nothing flushed."""
    until_pending(qmp)


def flushed(qmp: Qmp, merge: commit.Merge) -> None:
    """The window in which the base is flushed, and the header above not yet rewritten."""
    until_pending(qmp)
    with suppress(Stopped):
        commit.look(StopBefore(qmp, "job-finalize"), merge)


def finalising(qmp: Qmp, merge: commit.Merge) -> None:
    """The window in which the header above is rewritten."""
    until_pending(qmp)
    commit.look(qmp, merge)


def concluded(qmp: Qmp, merge: commit.Merge) -> None:
    """The window in which the job is over and its end not yet noted."""
    until_pending(qmp)
    until(lambda: commit.look(qmp, merge).state is JobState.DONE)


def dismissed(qmp: Qmp, merge: commit.Merge) -> None:
    """The window in which the job is forgotten, and the merged images are still open."""
    concluded(qmp, merge)
    with suppress(Stopped):
        commit.dismiss(StopBefore(qmp, "blockdev-del"), [merge.overlay, merge.base])
    assert commit.find_job(qmp) is None


def closed(qmp: Qmp, merge: commit.Merge) -> None:
    """The window in which the merged images are closed, and not yet deleted."""
    concluded(qmp, merge)
    commit.dismiss(qmp, [merge.overlay, merge.base])


WINDOWS: dict[Window, int] = {
    copying: 10,
    pending: 3,
    flushed: 3,
    finalising: 15,
    concluded: 3,
    dismissed: 3,
    closed: 3,
}
"""Each with how often it is tried; more often where it is short."""

OLD_PARENT = {pending, flushed}
NEW_PARENT = {concluded, dismissed, closed}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("window", WINDOWS)
def test_killed_in_a_window(window: Window, qsd: QsdDatapath, tmp_path: Path) -> None:
    seen = set()
    for number in range(WINDOWS[window]):
        folder = tmp_path / str(number)
        folder.mkdir()
        chain = make_chain(folder)
        endpoint = qsd.open(DISK, chain, read_only=False)
        qemu_io(endpoint.nbd, "write -P 4 15M 64k", "flush")
        expected = expected_content()
        qsd.start_commit(DISK, chain[1], chain[2])
        note = qsd._require(DISK)
        with monitor(tmp_path) as qmp:
            window(qmp, merge_of(note))
            os.kill(endpoint.pid, signal.SIGKILL)
        wait_for_death(endpoint.pid)
        assert qsd.find(DISK) is None
        assert qsd.job(DISK) is None

        link = UTIL.info(chain[0].path).parent
        assert link is not None
        seen.add(link.name)
        present = chain if link.name == "inner.qcow2" else [chain[0], chain[2]]
        assert qemu_content(present) == expected, f"round {number}: over {link.name}"

        # The recovery: back to the image that was merged, which still holds everything; again.
        UTIL.set_parent(chain[0].path, chain[1])
        assert qemu_content(chain) == expected
        for each in chain:
            assert not UTIL.check(each.path).corruptions
        UTIL.repair(chain[2].path)
        qsd.open(DISK, chain, read_only=False)
        qsd.start_commit(DISK, chain[1], chain[2])
        while (job := qsd.job(DISK)) is not None and job.state is JobState.RUNNING:
            time.sleep(0.002)
        assert job is not None
        assert job.state is JobState.DONE
        qsd.finish_commit(DISK)
        chain[1].path.unlink()
        qsd.close(DISK)
        assert qemu_content([chain[0], chain[2]]) == expected
    if window in OLD_PARENT:
        assert seen == {"inner.qcow2"}
    if window in NEW_PARENT:
        assert seen == {"base.qcow2"}


def expected_content() -> bytes:
    """What the disk of `make_chain` reads as, with what the test wrote to it."""
    data = bytearray(SIZE)
    data[: 8 << 20] = b"\x01" * (8 << 20)
    data[4 << 20 : 12 << 20] = b"\x02" * (8 << 20)
    data[1 << 20 : (1 << 20) + (64 << 10)] = bytes(64 << 10)
    data[6 << 20 : 7 << 20] = b"\x03" * (1 << 20)
    data[15 << 20 : (15 << 20) + (64 << 10)] = b"\x04" * (64 << 10)
    return bytes(data)


def wait_for_death(pid: int) -> None:
    """Wait until a killed process is gone."""
    until(lambda: start_time(pid) is None, "the end of a process that was killed")


@pytest.mark.own_namespaces
def test_base_is_synced_before_the_header_above_names_it(qsd: QsdDatapath, tmp_path: Path) -> None:
    """The order of system calls of the daemon itself, seen from outside.

    Where an ordinary user may trace only what is below, root of a namespace may trace all in it.
    """
    chain = make_chain(tmp_path)
    endpoint = qsd.open(DISK, chain, read_only=False)
    trace = tmp_path / "trace"
    tracer = subprocess.Popen(
        [
            *("strace", "-f", "-y", "-o", str(trace), "-e", "trace=pwrite64,pwritev,fdatasync"),
            *("-p", str(endpoint.pid)),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    qsd.start_commit(DISK, chain[1], chain[2])
    while (job := qsd.job(DISK)) is not None and job.state is JobState.RUNNING:
        time.sleep(0.01)
    qsd.finish_commit(DISK)
    tracer.send_signal(signal.SIGINT)
    tracer.wait(patient(10))
    lines = trace.read_text().splitlines()
    base_writes = [n for n, line in enumerate(lines) if "write" in line and "base.qcow2" in line]
    base_syncs = [n for n, line in enumerate(lines) if "fdatasync" in line and "base.qcow2" in line]
    header = [n for n, line in enumerate(lines) if "write" in line and "leaf.qcow2" in line]
    data_end = [n for n in base_writes if n < header[0]][-1]
    assert header
    assert any(data_end < n < header[0] for n in base_syncs)
