"""A leaf merged by the daemon that serves it: kills at each command, and clients that slip in."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sm.cowutil.base import ImageRef
from sm.datapath.base import DatapathFailed, Disk, JobState, MirroringDatapath, OutcomeUnknown
from sm.datapath.qsd import qmp as qmp_module
from sm.datapath.qsd.datapath import QsdDatapath
from sm.datapath.qsd.qmp import Qmp
from sm.errors import Unimplemented
from sm.nbd.protocol import Command
from sm.owner import start_time
from tests.datapath.clients import Writer, content, qemu_io
from tests.datapath.contract.subjects import SIZE, Qsd
from tests.datapath.contract.test_serving import DISK
from tests.datapath.qsd.crash import Action, killed_at
from tests.datapath.qsd.test_qsd_crash import files, open_images
from tests.datapath.qsd.test_qsd_freeze import SlowClient
from tests.nbd.client import Gone, connect
from tests.soak.durable_writer import DurableWriter
from tests.support.patience import patient, until
from tests.support.tiers import every

LIMIT = 20.0


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Qsd]:
    """Images, and daemons that end with the test."""
    subject = Qsd(tmp_path)
    yield subject
    for served in subject.datapath().served():
        subject.datapath().close(served.disk)


def merge_leaf(chain: Sequence[ImageRef]) -> Callable[[MirroringDatapath], None]:
    """All that is asked of a datapath to merge the leaf into the image next to it."""

    def act(datapath: MirroringDatapath) -> None:
        datapath.start_mirror(DISK, chain[1])
        while True:
            job = datapath.mirror(DISK)
            assert job is not None
            if job.state is JobState.READY:
                break
            assert job.state is JobState.RUNNING, job
            time.sleep(0.002)
        datapath.pause_mirrored(DISK, LIMIT)
        chain[1].path.replace(chain[0].path)
        datapath.resume(DISK, [chain[0], *chain[2:]])

    return act


def present(chain: Sequence[ImageRef]) -> list[ImageRef]:
    """The chain that is on the storage, whichever of the two."""
    return [each for each in chain if each.path.exists()]


def settle(datapath: MirroringDatapath, chain: Sequence[ImageRef]) -> None:
    """What whoever comes next does."""
    datapath.resume(DISK, present(chain))
    datapath.stop_mirror(DISK)


def test_our_process_killed_at_every_command(subject: Qsd) -> None:
    folder = subject.folder / "run"
    datapath = QsdDatapath(folder)
    chain, model = subject.chain("a", "b", "leaf")
    endpoint = datapath.open(DISK, chain, read_only=False)
    switched = 0
    with Writer(endpoint.nbd, bytes(model)) as writer:
        writer.go_on(1)
        for point in count(*every(3, "our commands")):
            action: Action = merge_leaf(chain)
            killed = killed_at(point, folder, action)
            now = present(chain)
            settle(datapath, chain)
            found = datapath.find(DISK)
            assert found is not None
            assert (found.chain, found.paused) == (tuple(now), False)
            assert datapath.mirror(DISK) is None
            assert open_images(endpoint.pid) == files(now)
            writer.go_on(2)
            if len(now) < len(chain):
                switched += 1
                chain = subject.add_leaf(now, f"base{point}")
                datapath.refresh(DISK, chain)
            if not killed:
                break
        writer.go_on(3)
    assert point > 30
    assert 0 < switched < point
    assert content(endpoint.nbd, SIZE) == writer.data
    datapath.close(DISK)
    assert subject.content(chain) == writer.data
    subject.check(chain)


class _Murderous(Qmp):
    """Kills the daemon before or after the command that `steps` has come to `point` at."""

    def __init__(self, path: Path, pid: int, steps: Iterator[int], point: int) -> None:
        super().__init__(path)
        self._pid, self._steps, self._point = pid, steps, point

    def call(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        if command.startswith("query-"):
            return super().call(command, arguments)
        self._step()
        answer = super().call(command, arguments)
        self._step()
        return answer

    def _step(self) -> None:
        if next(self._steps) == self._point:
            os.kill(self._pid, signal.SIGKILL)
            until(lambda: start_time(self._pid) is None)


class _MurderousDatapath(QsdDatapath):
    def __init__(self, folder: Path, pid: int, point: int) -> None:
        super().__init__(folder)
        self._pid, self._point, self._count = pid, point, count()

    def _qmp(self, disk: Disk) -> Qmp:
        socket = self._socket(disk, self.control_suffix)
        return _Murderous(socket, self._pid, self._count, self._point)


def test_the_daemon_killed_at_every_command(subject: Qsd) -> None:
    """What was written and flushed is what the leaf's name leads to, whenever it dies."""
    folder = subject.folder / "run"
    chain, model = subject.chain("a", "b", "leaf")
    data, ended = bytes(model), False
    for point in count(0, 2):
        datapath = QsdDatapath(folder)
        endpoint = datapath.open(DISK, chain, read_only=False)
        assert endpoint.nbd is not None
        with DurableWriter(endpoint.nbd, data, point) as writer:
            writer.go_on(2)
            try:
                merge_leaf(chain)(_MurderousDatapath(folder, endpoint.pid, point))
                ended = True
            except (DatapathFailed, AssertionError):
                assert start_time(endpoint.pid) is None
                writer.cut_off()
        datapath.close(DISK)
        chain = present(chain)
        writer.check(subject.content(chain))
        data = bytes(writer.data)
        if ended:
            break
        if len(chain) < 3:
            chain = subject.add_leaf(chain, f"base{point}")
    assert point > 30
    subject.check(chain)


def test_who_was_connecting_loses_nothing(subject: Qsd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither reads one image nor writes to another: its requests fail till it connects anew."""
    chain, model = subject.chain("a", "b")
    datapath = subject.datapath()
    assert isinstance(datapath, MirroringDatapath)
    endpoint = datapath.open(DISK, chain, read_only=False)
    assert endpoint.socket is not None
    early, late = connect(endpoint.nbd), SlowClient(endpoint.socket)
    datapath.start_mirror(DISK, chain[1])
    datapath.pause_mirrored(DISK, LIMIT)
    waiting = early.send(Command.WRITE, 4096, data=b"e" * 4096)
    late.go_on(DISK.vdi)
    assert late.do(Command.WRITE, 0, data=b"l" * 4096) == errno.EIO
    assert late.read(0, 4096)[0] == errno.EIO
    with pytest.raises(FileNotFoundError):
        connect(endpoint.nbd)
    left = subject.take_name(chain, 1)
    monkeypatch.setattr(qmp_module, "SECONDS", patient(0.1))
    with pytest.raises(OutcomeUnknown):
        datapath.resume(DISK, left)
    monkeypatch.undo()
    late.close()
    datapath.resume(DISK, left)
    assert early.answer(waiting)[0] == 0
    model[4096:8192] = b"e" * 4096
    assert content(endpoint.nbd, SIZE) == model
    datapath.close(DISK)
    assert subject.content(left) == model


def test_a_daemon_that_is_told_to_end_after_the_switch_acknowledges_nothing(subject: Qsd) -> None:
    """Nobody came to let the users go on: what they wrote meanwhile must not go to the old leaf."""
    chain, model = subject.chain("a", "b")
    datapath = subject.datapath()
    assert isinstance(datapath, MirroringDatapath)
    endpoint = datapath.open(DISK, chain, read_only=False)
    client = connect(endpoint.nbd)
    datapath.start_mirror(DISK, chain[1])
    datapath.pause_mirrored(DISK, LIMIT)
    waiting = client.send(Command.WRITE, 4096, data=b"w" * 4096)
    left = subject.take_name(chain, 1)
    os.kill(endpoint.pid, signal.SIGTERM)
    with suppress(Gone, OSError):
        assert client.answer(waiting)[0] != 0
    until(lambda: start_time(endpoint.pid) is None)
    assert subject.content(left) == model


@pytest.mark.own_namespaces
def test_a_disk_that_is_shown_as_a_file_has_no_mirror(subject: Qsd) -> None:
    chain, _ = subject.chain("a", "b")
    datapath = subject.datapath()
    assert isinstance(datapath, MirroringDatapath)
    datapath.open(DISK, chain, read_only=False, path=subject.folder / "shown")
    with pytest.raises(Unimplemented):
        datapath.start_mirror(DISK, chain[1])
    assert datapath.mirror(DISK) is None


def test_discards_and_zeroes_in_a_mirror(subject: Qsd) -> None:
    """What is zeroed is zero afterwards; what is discarded is zero, or as it was."""
    chain, model = subject.chain("a", "b")
    datapath = subject.datapath()
    assert isinstance(datapath, MirroringDatapath)
    endpoint = datapath.open(DISK, chain, read_only=False)
    datapath.start_mirror(DISK, chain[1])
    until(lambda: (job := datapath.mirror(DISK)) is not None and job.state is JobState.READY)
    qemu_io(endpoint.nbd, "write -z 1M 1M", "discard 3M 1M", "write -P 9 5M 64k", "flush")
    datapath.pause_mirrored(DISK, LIMIT)
    left = subject.take_name(chain, 1)
    datapath.resume(DISK, left)
    model[1 << 20 : 2 << 20] = bytes(1 << 20)
    model[5 << 20 : (5 << 20) + (64 << 10)] = b"\x09" * (64 << 10)
    found = bytearray(content(endpoint.nbd, SIZE))
    part = slice(3 << 20, 4 << 20)
    assert found[part] in (bytes(1 << 20), model[part])
    found[part] = model[part]
    assert found == model
