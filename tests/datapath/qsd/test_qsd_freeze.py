"""A pause that goes wrong: requests that do not end, clients that slip in, storage that hangs."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sm.cowutil.base import ImageRef
from sm.datapath.base import DatapathFailed, Disk, OutcomeUnknown
from sm.datapath.qsd import datapath as datapath_module
from sm.datapath.qsd import qmp as qmp_module
from sm.datapath.qsd.datapath import QsdDatapath
from sm.datapath.qsd.qmp import Qmp
from sm.nbd.protocol import Command, Option, OptionReply
from tests.datapath.clients import Writer, content
from tests.datapath.contract.subjects import SIZE, Qsd
from tests.datapath.contract.test_serving import DISK, SIBLING
from tests.nbd.client import Client, connect
from tests.support.patience import patient


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Qsd]:
    """Images, and daemons that end with the test."""
    subject = Qsd(tmp_path)
    yield subject
    for served in subject.datapath().served():
        subject.datapath().close(served.disk)


class NeverFrozen(QsdDatapath):
    """One that does not see the requests end."""

    def _qmp(self, disk: Disk) -> Qmp:
        return _NeverPending(self._socket(disk, self.control_suffix))


class _NeverPending(Qmp):
    def call(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        answer = super().call(command, arguments)
        if command == "query-jobs":
            return [
                each | {"status": each["status"].replace("pending", "ready")} for each in answer
            ]
        return answer


class SlowClient(Client):
    """One that is in the middle of connecting."""

    def __init__(self, path: Path) -> None:
        self.peer = socket.socket(socket.AF_UNIX)
        self.peer.settimeout(patient(20))
        self.peer.connect(str(path))
        self.structured = False
        self._cookies = count(1)
        self.take(18)
        self.peer.sendall(struct.pack(">I", 3))

    def go_on(self, export: str) -> None:
        """Finish."""
        name = export.encode()
        replies = self.option(Option.GO, len(name).to_bytes(4, "big") + name + bytes(2))
        assert replies[-1][0] == OptionReply.ACK


def test_what_does_not_freeze_in_time_goes_on(
    subject: Qsd, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, model = subject.chain("a", "b")
    datapath = subject.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    assert endpoint.socket is not None
    monkeypatch.setattr(datapath_module, "FREEZE_SECONDS", 0.2)
    with Writer(endpoint.nbd, bytes(model)) as writer:
        writer.go_on(5)
        for _ in range(2):
            with pytest.raises(DatapathFailed, match="did not end"):
                NeverFrozen(subject.folder / "run").pause(DISK)
            found = datapath.find(DISK)
            assert found is not None
            assert not found.paused
            assert endpoint.socket.exists()
            writer.go_on(5)
        monkeypatch.undo()
        datapath.pause(DISK)
        datapath.resume(DISK, chain)
        writer.go_on(5)
    assert content(endpoint.nbd, SIZE) == writer.data
    datapath.close(DISK)
    assert subject.content(chain) == writer.data


def test_nobody_connects_in_a_pause(subject: Qsd) -> None:
    chain, model = subject.chain("a", "b")
    datapath = subject.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    datapath.pause(DISK)
    with pytest.raises(FileNotFoundError):
        connect(endpoint.nbd)
    datapath.resume(DISK, chain)
    assert content(endpoint.nbd, SIZE) == model


def test_who_was_connecting_loses_nothing(subject: Qsd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests fail, while others wait; nothing that it was told is done goes nowhere."""
    chain, model = subject.chain("a", "b")
    datapath = subject.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    assert endpoint.socket is not None
    early, late = connect(endpoint.nbd), SlowClient(endpoint.socket)
    datapath.pause(DISK)
    waiting = early.send(Command.WRITE, 4096, data=b"e" * 4096)
    late.go_on(DISK.vdi)
    assert late.read(0, 4096)[0] == errno.EIO
    assert late.do(Command.WRITE_ZEROES, 0, 4096) == errno.EIO
    assert late.do(Command.WRITE, 0, data=b"l" * 4096) == errno.EIO
    monkeypatch.setattr(qmp_module, "SECONDS", patient(0.1))
    with pytest.raises(OutcomeUnknown):
        datapath.resume(DISK, chain)
    monkeypatch.undo()
    found = datapath.find(DISK)
    assert found is not None
    assert found.paused
    late.close()
    datapath.resume(DISK, chain)
    assert early.answer(waiting)[0] == 0
    model[4096:8192] = b"e" * 4096
    assert content(endpoint.nbd, SIZE) == model
    datapath.close(DISK)
    assert subject.content(chain) == model


@pytest.mark.own_namespaces
def test_storage_that_hangs(subject: Qsd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon cannot answer; afterwards the disk is as before, and can be resumed."""
    folder, datapath = subject.folder, subject.datapath()
    (folder / "disk.raw").write_bytes(bytes(SIZE))
    below = datapath.open(
        SIBLING, [ImageRef(folder / "disk.raw", "raw")], read_only=False, path=folder / "slow"
    )
    chain = [ImageRef(folder / "slow", "raw")]
    endpoint = datapath.open(DISK, chain, read_only=False)
    client = connect(endpoint.nbd)
    os.kill(below.pid, signal.SIGSTOP)
    try:
        waiting = client.send(Command.WRITE, 4096, data=b"w" * 4096)
        monkeypatch.setattr(qmp_module, "SECONDS", patient(0.1))
        with pytest.raises(OutcomeUnknown):
            datapath.pause(DISK)
    finally:
        os.kill(below.pid, signal.SIGCONT)
    monkeypatch.undo()
    assert client.answer(waiting)[0] == 0
    found = datapath.find(DISK)
    assert found is not None
    assert found.paused
    datapath.resume(DISK, chain)
    assert client.do(Command.WRITE, 8192, data=b"x" * 4096) == 0
    datapath.pause(DISK)
    datapath.resume(DISK, chain)
    datapath.close(DISK)
    datapath.close(SIBLING)
    expected = bytes(4096) + b"w" * 4096 + b"x" * 4096
    assert (folder / "disk.raw").read_bytes() == expected + bytes(SIZE - len(expected))
