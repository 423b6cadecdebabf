"""Writes that find no room in a disk that gets more: they wait, and nobody else does."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.nbd.protocol import Command
from sm.nbd.server import NbdServer
from tests.nbd.client import MemoryDisk, connect
from tests.support.patience import until

SIZE = 1 << 20
FULL_FROM = 512 << 10


@pytest.fixture
def disk() -> MemoryDisk:
    """One that has no room from its middle on."""
    disk = MemoryDisk(SIZE)
    disk.faults = dict.fromkeys(range(FULL_FROM, SIZE, 4096), errno.ENOSPC)
    return disk


@pytest.fixture
def server(disk: MemoryDisk, tmp_path: Path) -> Iterator[NbdServer]:
    """A running server of a disk that grows."""
    server = NbdServer("vdi", disk, grows=True)
    server.listen(tmp_path / "nbd")
    server.start()
    yield server
    server.stop()


def uri(folder: Path) -> str:
    return f"nbd+unix:///vdi?socket={folder / 'nbd'}"


def test_a_write_waits_for_room(server: NbdServer, disk: MemoryDisk, tmp_path: Path) -> None:
    client, other = connect(uri(tmp_path)), connect(uri(tmp_path))
    first = client.send(Command.WRITE, 0, data=b"a" * 4096)
    waiting = client.send(Command.WRITE, FULL_FROM, data=b"w" * 4096)
    behind = client.send(Command.WRITE, 4096, data=b"b" * 4096)
    assert client.answer(first)[0] == 0
    until(lambda: server.waiting == 1)
    assert other.do(Command.WRITE, 8192, data=b"o" * 4096) == 0
    disk.faults.clear()
    assert client.answer(waiting)[0] == 0
    assert client.answer(behind)[0] == 0
    assert server.waiting == 0
    assert disk.data[FULL_FROM : FULL_FROM + 4096] == b"w" * 4096
    assert bytes(disk.data[:12288]) == b"a" * 4096 + b"b" * 4096 + b"o" * 4096


def test_a_pause_does_not_wait_for_it(server: NbdServer, disk: MemoryDisk, tmp_path: Path) -> None:
    client = connect(uri(tmp_path))
    waiting = client.send(Command.WRITE, FULL_FROM, data=b"w" * 4096)
    until(lambda: server.waiting == 1)
    server.pause(5)
    disk.faults.clear()
    assert not any(disk.data)
    server.resume()
    assert client.answer(waiting)[0] == 0


def test_a_client_that_leaves_waits_no_more(
    server: NbdServer, disk: MemoryDisk, tmp_path: Path
) -> None:
    client = connect(uri(tmp_path))
    client.send(Command.WRITE, FULL_FROM, data=b"w" * 4096)
    until(lambda: server.waiting == 1)
    client.close()
    until(lambda: server.clients == 0)
    assert server.waiting == 0


def test_what_no_room_can_help_fails(server: NbdServer, disk: MemoryDisk, tmp_path: Path) -> None:
    client = connect(uri(tmp_path))
    assert client.do(Command.WRITE, SIZE, data=b"x" * 4096) == errno.ENOSPC
    disk.faults = {0: errno.EIO}
    assert client.do(Command.WRITE, 0, data=b"x" * 4096) == errno.EIO


def test_where_nothing_grows_it_fails(disk: MemoryDisk, tmp_path: Path) -> None:
    server = NbdServer("vdi", disk)
    server.listen(tmp_path / "nbd")
    server.start()
    client = connect(uri(tmp_path))
    assert client.do(Command.WRITE, FULL_FROM, data=b"w" * 4096) == errno.ENOSPC
    assert server.waiting == 0
    server.stop()
