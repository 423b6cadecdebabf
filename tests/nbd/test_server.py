"""The NBD server, with clients that are not ours and with one that says what they never would."""

from __future__ import annotations

import errno
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.nbd import protocol
from sm.nbd.connection import OUTGOING, PIECE
from sm.nbd.protocol import Command, CommandFlag, Option, OptionReply, TransmissionFlag
from sm.nbd.server import MAX_CLIENTS, NbdServer
from sm.nbd.traffic import Traffic
from tests.datapath.clients import content, qemu_io
from tests.nbd.client import Client, Gone, MemoryDisk
from tests.support.patience import patient, until

SIZE = 8 << 20


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk(SIZE)


@pytest.fixture
def server(disk: MemoryDisk, tmp_path: Path) -> Iterator[NbdServer]:
    """A running server on `nbd` in the temporary folder."""
    server = NbdServer("vdi", disk)
    server.listen(tmp_path / "nbd")
    server.start()
    yield server
    server.stop()


def uri(folder: Path) -> str:
    return f"nbd+unix:///vdi?socket={folder / 'nbd'}"


@pytest.mark.usefixtures("server")
def test_foreign_clients_see_and_change_the_disk(disk: MemoryDisk, tmp_path: Path) -> None:
    disk.data[:] = random.Random(1).randbytes(SIZE)
    assert content(uri(tmp_path), SIZE) == disk.data
    before = disk.flushes
    qemu_io(uri(tmp_path), "write -P 3 100k 300k", "write -z 1M 64k", "discard 2M 1M", "flush")
    assert disk.data[100 << 10 : 400 << 10] == b"\x03" * (300 << 10)
    assert not any(disk.data[1 << 20 : (1 << 20) + (64 << 10)])
    assert not any(disk.data[2 << 20 : 3 << 20])
    assert disk.flushes > before
    source = tmp_path / "source"
    source.write_bytes(random.Random(2).randbytes(SIZE))
    subprocess.run(["nbdcopy", "--flush", source, uri(tmp_path)], check=True, timeout=patient(60))
    assert disk.data == source.read_bytes()


@pytest.mark.usefixtures("server")
def test_map_and_list_as_libnbd_sees_them(disk: MemoryDisk, tmp_path: Path) -> None:
    disk.data[1 << 20 : 3 << 20] = b"\x01" * (2 << 20)
    said = subprocess.run(
        ["nbdinfo", "--map", "--json", uri(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    found = [line.split() for line in said.splitlines() if "offset" in line]
    assert len(found) == 3
    assert '"offset": 1048576, "length": 2097152, "type": 0' in said
    listed = subprocess.run(
        ["nbdinfo", "--list", f"nbd+unix:///?socket={tmp_path / 'nbd'}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert 'export="vdi"' in listed


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("structured", [False, True])
def test_many_requests_in_one_send(disk: MemoryDisk, tmp_path: Path, structured: bool) -> None:
    dice = random.Random(3)
    disk.data[:] = dice.randbytes(SIZE)
    client = Client(tmp_path / "nbd", structured=structured)
    lengths = [dice.choice([1, 511, 4096, 70_000, PIECE, PIECE + 1, 3 << 20]) for _ in range(60)]
    reads = [(dice.randrange(SIZE - length), length) for length in lengths]
    sender = threading.Thread(
        target=lambda: [client.send(Command.READ, at, length) for at, length in reads]
    )
    sender.start()
    for cookie, (at, length) in enumerate(reads, 1):
        assert client.answer(cookie, length) == (0, disk.data[at : at + length])
    sender.join()
    client.close()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("structured", [False, True])
def test_random_writes_against_a_model(disk: MemoryDisk, tmp_path: Path, structured: bool) -> None:
    dice, model = random.Random(4), bytearray(SIZE)
    client = Client(tmp_path / "nbd", structured=structured)
    for _ in range(150):
        length = dice.choice([1, 513, 4096, 100_000, 1 << 20, 4 << 20])
        at = dice.randrange(SIZE - length)
        if dice.random() < 0.2:
            assert client.do(Command.WRITE_ZEROES, at, length) == 0
            model[at : at + length] = bytes(length)
        else:
            data = dice.randbytes(length)
            assert client.do(Command.WRITE, at, data=data, flags=dice.choice([0, 1])) == 0
            model[at : at + length] = data
        look = dice.randrange(SIZE - 5000)
        assert client.read(look, 5000) == (0, model[look : look + 5000])
    assert disk.data == model
    client.close()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("structured", [False, True])
def test_refusals_leave_the_connection_usable(
    disk: MemoryDisk, tmp_path: Path, structured: bool
) -> None:
    disk.data[:] = random.Random(5).randbytes(SIZE)
    before = bytes(disk.data)
    client = Client(tmp_path / "nbd", structured=structured)
    assert client.read(SIZE - 10, 11)[0] == errno.EINVAL
    assert client.read((1 << 64) - 1, 1)[0] == errno.EINVAL
    assert client.read(0, 0)[0] == errno.EINVAL
    assert client.read(0, (32 << 20) + 1)[0] == errno.EINVAL
    assert client.read(0, 10, flags=1 << 9)[0] == errno.EINVAL
    wanted = errno.EOVERFLOW if structured else errno.EINVAL
    assert client.read(0, PIECE + 1, flags=CommandFlag.DF)[0] == wanted
    assert client.do(Command.WRITE, SIZE - 1, data=b"ab") == errno.ENOSPC
    assert client.do(Command.WRITE_ZEROES, SIZE, 1) == errno.ENOSPC
    assert client.do(Command.TRIM, SIZE - 1, 2) == errno.ENOSPC
    fast = CommandFlag.FAST_ZERO
    assert client.do(Command.WRITE_ZEROES, 0, 4096, flags=fast) == errno.ENOTSUP
    assert client.do(77, 0, 4096) == errno.EINVAL
    assert client.do(Command.FLUSH, flags=CommandFlag.FUA) == errno.EINVAL
    if structured:
        assert client.status(0, 0)[0] == errno.EINVAL
        assert client.status(SIZE, 1)[0] == errno.EINVAL
    assert disk.data == before
    assert client.read(5, 5) == (0, before[5:10])
    client.close()


@pytest.mark.usefixtures("server")
def test_forced_writes_are_flushed_before_the_answer(disk: MemoryDisk, tmp_path: Path) -> None:
    client = Client(tmp_path / "nbd")
    assert client.do(Command.WRITE, 0, data=b"x" * 512) == 0
    assert disk.flushes == 0
    for number, kind in enumerate((Command.WRITE, Command.WRITE_ZEROES, Command.TRIM), 1):
        data = b"x" * 512 if kind is Command.WRITE else b""
        assert client.do(kind, 0, 512, data, flags=CommandFlag.FUA) == 0
        assert disk.flushes == number
    assert client.do(Command.FLUSH) == 0
    assert disk.flushes == 4
    client.close()


@pytest.mark.usefixtures("server")
def test_status_is_joined_and_one_when_asked(disk: MemoryDisk, tmp_path: Path) -> None:
    disk.data[4096:8192] = b"\x01" * 4096
    client = Client(tmp_path / "nbd", structured=True)
    assert client.status(0, 16384) == (0, [(4096, 3), (4096, 0), (8192, 3)])
    assert client.status(100, 16384, CommandFlag.REQ_ONE) == (0, [(3996, 3)])
    client.close()


@pytest.mark.usefixtures("server")
def test_errors_of_the_disk_reach_the_client(disk: MemoryDisk, tmp_path: Path) -> None:
    disk.faults = {5000: errno.ESTALE, 9000: errno.EDQUOT, 3 << 20: errno.EIO}
    client = Client(tmp_path / "nbd", structured=True)
    assert client.read(4096, 4096)[0] == errno.EIO
    assert client.do(Command.WRITE, 8192, data=bytes(4096)) == errno.ENOSPC
    assert client.read(1 << 20, 4 << 20)[0] == errno.EIO
    assert client.read(0, 4096) == (0, bytes(4096))
    client.close()
    plain = Client(tmp_path / "nbd")
    with pytest.raises(Gone):  # the reply had begun with success
        plain.read(1 << 20, 4 << 20)
    plain.close()


def test_read_only(tmp_path: Path) -> None:
    disk = MemoryDisk(SIZE, read_only=True)
    server = NbdServer("vdi", disk)
    server.listen(tmp_path / "nbd")
    server.start()
    try:
        client = Client(tmp_path / "nbd")
        assert client.flags & TransmissionFlag.READ_ONLY
        assert client.do(Command.WRITE, 0, data=b"x") == errno.EPERM
        assert client.do(Command.WRITE_ZEROES, 0, 4096) == errno.EPERM
        assert client.do(Command.TRIM, 0, 4096) == errno.EPERM
        assert client.read(0, 10) == (0, bytes(10))
        assert not any(disk.data)
    finally:
        server.stop()


@pytest.mark.parametrize("structured", [False, True])
def test_what_is_moved_is_counted(
    server: NbdServer, disk: MemoryDisk, tmp_path: Path, structured: bool
) -> None:
    """Of clients that have left too; neither what fails nor what moves nothing."""
    disk.faults = {SIZE - 1: errno.EIO}
    client = Client(tmp_path / "nbd", structured=structured)
    cookies = [client.send(Command.READ, 0, 4096) for _ in range(100)]
    for cookie in cookies:
        assert client.answer(cookie, 4096)[0] == 0
    assert client.read(0, 3 << 20)[0] == 0
    assert client.read(SIZE - 512, 512)[0] == errno.EIO
    assert client.do(Command.WRITE, 0, data=b"x" * 1000) == 0
    assert client.do(Command.WRITE, SIZE - 512, data=b"x" * 512) == errno.EIO
    assert client.do(Command.WRITE_ZEROES, 0, 1 << 20) == 0
    assert client.do(Command.FLUSH) == 0
    first = Traffic(100 * 4096 + (3 << 20), 1000, 101, 1)
    assert server.traffic == first
    client.close()
    other = Client(tmp_path / "nbd", structured=structured)
    assert other.do(Command.WRITE, 0, data=b"y" * 24) == 0
    first.add(Traffic(0, 24, 0, 1))
    assert server.traffic == first


def test_pause_holds_requests_and_resume_answers_them(
    server: NbdServer, disk: MemoryDisk, tmp_path: Path
) -> None:
    client = Client(tmp_path / "nbd")
    server.pause(patient(5))
    cookie = client.send(Command.WRITE, 0, data=b"x" * 10)
    other = Client(tmp_path / "nbd")  # a handshake needs no disk
    client.peer.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.answer(cookie)
    assert not any(disk.data[:10])
    client.peer.settimeout(patient(20))
    server.resume()
    assert client.answer(cookie)[0] == 0
    assert other.read(0, 10) == (0, b"x" * 10)


def test_a_silent_payload_does_not_hold_up_a_pause(server: NbdServer, tmp_path: Path) -> None:
    client = Client(tmp_path / "nbd")
    head = protocol.REQUEST.pack(protocol.REQUEST_MAGIC, 0, Command.WRITE, 1, 0, 4096)
    client.peer.sendall(head + b"x" * 100)
    time.sleep(0.1)
    server.pause(patient(5))
    server.resume()
    client.peer.sendall(b"x" * 3996)
    assert client.answer(1)[0] == 0


@pytest.mark.usefixtures("server")
def test_what_cannot_go_on_is_let_go(tmp_path: Path) -> None:
    huge = Client(tmp_path / "nbd")
    huge.send(Command.WRITE, 0, (32 << 20) + 1)
    with pytest.raises(Gone):
        huge.take(1)
    strange = socket.socket(socket.AF_UNIX)
    strange.settimeout(patient(20))
    strange.connect(str(tmp_path / "nbd"))
    strange.recv(protocol.GREETING.size, socket.MSG_WAITALL)
    strange.sendall(protocol.CLIENT_FLAGS.pack(4))
    assert strange.recv(1) == b""
    rubbish = Client(tmp_path / "nbd")
    rubbish.peer.sendall(bytes(28))
    with pytest.raises(Gone):
        rubbish.take(1)


@pytest.mark.usefixtures("server")
def test_options(tmp_path: Path) -> None:
    client = Client.__new__(Client)
    client.peer = socket.socket(socket.AF_UNIX)
    client.peer.settimeout(patient(20))
    client.peer.connect(str(tmp_path / "nbd"))
    client.take(protocol.GREETING.size)
    client.peer.sendall(protocol.CLIENT_FLAGS.pack(3))
    name = (3).to_bytes(4, "big") + b"vdi"
    assert client.option(99)[0][0] == OptionReply.ERR_UNSUP
    assert client.option(Option.LIST, b"x")[0][0] == OptionReply.ERR_INVALID
    assert client.option(Option.INFO, b"")[0][0] == OptionReply.ERR_INVALID
    assert client.option(Option.INFO, b"\xff\xff\xff\xff")[0][0] == OptionReply.ERR_INVALID
    assert client.option(Option.INFO, bytes(6))[0][0] == OptionReply.ERR_UNKNOWN
    assert client.option(Option.INFO, name + b"\0\1")[0][0] == OptionReply.ERR_INVALID
    assert client.option(Option.INFO, name + bytes(2))[-1][0] == OptionReply.ACK
    query = name + (0).to_bytes(4, "big")
    assert client.option(Option.LIST_META_CONTEXT, query)[0][0] == OptionReply.ERR_INVALID
    assert client.option(Option.STRUCTURED_REPLY)[0][0] == OptionReply.ACK
    replies = client.option(Option.LIST_META_CONTEXT, query)
    assert replies[0] == (OptionReply.META_CONTEXT, bytes(4) + b"base:allocation")
    many = name + (65).to_bytes(4, "big") + bytes(4 * 65)
    assert client.option(Option.SET_META_CONTEXT, many)[0][0] == OptionReply.ERR_INVALID
    assert client.option(Option.ABORT)[0][0] == OptionReply.ACK
    with pytest.raises(Gone):
        client.take(1)


def test_no_more_clients_than_there_is_memory_for(server: NbdServer, tmp_path: Path) -> None:
    clients = [Client(tmp_path / "nbd") for _ in range(MAX_CLIENTS)]
    with pytest.raises((Gone, ConnectionError)):
        Client(tmp_path / "nbd")
    for each in clients:
        each.close()
    until(lambda: not server.clients)
    assert Client(tmp_path / "nbd").read(0, 1) == (0, b"\0")


@pytest.mark.parametrize("seed", range(4))
def test_hostile_bytes(
    server: NbdServer,
    disk: MemoryDisk,
    tmp_path: Path,
    seed: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Mutated handshakes and requests: a good client is served as ever, and no thread dies."""
    dice = random.Random(seed)
    disk.faults = {}
    died: list[object] = []
    hook, threading.excepthook = threading.excepthook, died.append
    try:
        for _ in range(150):
            _attack(tmp_path / "nbd", dice)
        good = Client(tmp_path / "nbd", structured=True)
        assert good.read(0, SIZE)[1] == disk.data
        good.close()
        until(lambda: not server.clients)
    finally:
        threading.excepthook = hook
    assert died == []
    assert "Traceback" not in capfd.readouterr().err


def _attack(path: Path, dice: random.Random) -> None:
    """One conversation with some bytes changed; ends whatever the server does."""
    name = (3).to_bytes(4, "big") + b"vdi"
    parts = [
        protocol.CLIENT_FLAGS.pack(3),
        _option(Option.STRUCTURED_REPLY, b""),
        _option(Option.SET_META_CONTEXT, name + b"\0\0\0\1\0\0\0\x0fbase:allocation"),
        _option(Option.GO, name + bytes(2)),
    ]
    for _ in range(dice.randrange(12)):
        kind = dice.randrange(9)
        length = dice.choice([0, 1, 512, 70_000])
        place = dice.choice([0, 1, SIZE - 512, SIZE, dice.getrandbits(64)])
        flags = dice.choice([0, 0, 0, 1, 4, 8, 16, 0xFFFF])
        head = protocol.REQUEST.pack(protocol.REQUEST_MAGIC, flags, kind, 7, place, length)
        parts.append(head + (bytes(length) if kind == Command.WRITE else b""))
    data = bytearray(b"".join(parts))
    first = 0 if dice.random() < 0.5 else sum(map(len, parts[:4]))
    for _ in range(dice.randrange(4)):
        if len(data) > first:
            data[dice.randrange(first, len(data))] = dice.choice([0, 1, 255, dice.getrandbits(8)])
    del data[dice.randrange(len(data)) if dice.random() < 0.3 else len(data) :]
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(0.02)
        try:
            peer.connect(str(path))
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(OUTGOING):
                pass
        except (TimeoutError, ConnectionError):
            return


def _option(option: Option, data: bytes) -> bytes:
    return protocol.OPTION.pack(protocol.OPTION_MAGIC, option, len(data)) + data


@pytest.mark.usefixtures("server")
def test_silent_clients_do_not_keep_a_good_one_out(disk: MemoryDisk, tmp_path: Path) -> None:
    """As many as may be connected say nothing: they go, one by one, for those who do."""
    disk.data[:] = random.Random(3).randbytes(SIZE)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(MAX_CLIENTS)]
    for each in silent:
        each.connect(str(tmp_path / "nbd"))
        assert each.recv(1)  # it was let in, and greeted
    assert content(uri(tmp_path), SIZE) == disk.data
    for each in silent:
        each.close()
