"""Messages against C structs that were written down separately, and against a server that errs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sm.datapath.base import DatapathFailed, OutcomeUnknown
from sm.datapath.tapdisk import wire
from sm.datapath.tapdisk.control import Control, Refused
from sm.datapath.tapdisk.wire import Kind, State
from tests.datapath.tapdisk.double.layout import SIZE, Message


def test_requests() -> None:
    data = wire.request(Kind.OPEN, 0x1234, text="qcow2:/sr/ä", flags=0x402, timeout=60)
    assert len(data) == wire.SIZE == SIZE
    read = Message.from_buffer_copy(data)
    assert (read.type, read.cookie) == (7, 0x1234)
    params = read.u.params
    assert (params.flags, params.devnum, params.domid) == (0x402, 0, 0)
    assert params.path == "qcow2:/sr/ä".encode()
    assert (params.prt_devnum, params.req_timeout, params.secondary) == (-1, 60, b"")
    assert data[2 + 2 : 8] == bytes(4)
    assert data[8:12] == b"\x02\x04\0\0"
    assert data[276:280] == b"\xff" * 4
    assert data[280:282] == b"\x3c\0"


def test_ids() -> None:
    expected = {
        "PID": 3, "ATTACH": 5, "OPEN": 7, "PAUSE": 9, "RESUME": 11, "CLOSE": 13, "DETACH": 15,
        "LIST": 19, "STATS": 21, "DISK_INFO": 28, "COMMIT": 31, "QUERY": 33, "CANCEL": 35,
        "ERROR": 1,
    }  # fmt: skip
    assert {kind.name: int(kind) for kind in Kind} == expected


def test_answers() -> None:
    answer = Message(type=34, cookie=5)
    answer.u.query.current, answer.u.query.total = 1 << 40, (1 << 40) + 1
    answer.u.query.status = b"concluded"
    assert wire.progress(bytes(answer)) == wire.Progress(1 << 40, (1 << 40) + 1, "concluded")
    answer = Message(type=20)
    answer.u.list.count, answer.u.list.minor, answer.u.list.state = 1, 7, 0x22A
    answer.u.list.path = b"vhd:/sr/\xff b=c"
    found = wire.listed(bytes(answer))
    assert (found.count, found.minor, found.argument) == (1, 7, "vhd:/sr/\udcff b=c")
    assert State.PAUSED in found.state
    assert State.RESUME_FAILED in found.state
    answer = Message(type=8)
    answer.u.image.sectors, answer.u.image.sector_size = 1 << 33, 512
    assert wire.image(bytes(answer)).size == 1 << 42
    answer = Message(type=22)
    answer.u.stat.length = 77
    assert wire.text_length(bytes(answer)) == 77
    answer = Message(type=4)
    answer.u.pid = 4242
    assert wire.pid(bytes(answer)) == 4242
    answer = Message(type=1)
    answer.u.response.error, answer.u.response.message = 16, b"a job"
    assert wire.response(bytes(answer)) == wire.Response(16, "a job")


def test_a_slot_has_room_for_255_bytes() -> None:
    read = Message.from_buffer_copy(wire.request(Kind.COMMIT, text="é" * 127 + "x"))
    assert len(read.u.params.path) == 255
    for bad in ("é" * 128, "x\0y"):
        with pytest.raises(ValueError, match="255 at most"):
            wire.request(Kind.COMMIT, text=bad)


def serve(path: Path, act: Callable[[socket.socket], None]) -> Control:
    """A server of one connection, and a client of it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def work() -> None:
        peer, _ = listener.accept()
        with peer:
            assert len(peer.recv(SIZE, socket.MSG_WAITALL)) == SIZE
            act(peer)

    threading.Thread(target=work, daemon=True).start()
    return Control(path, 0.5)


@pytest.mark.parametrize("kind", [1, 10])
def test_an_error_comes_in_two_ways(tmp_path: Path, kind: int) -> None:
    answer = Message(type=kind, cookie=3)
    answer.u.response.error = 19
    control = serve(tmp_path / "s", lambda peer: peer.sendall(bytes(answer)))
    with pytest.raises(Refused, match="No such device") as caught:
        control.pause(3, 5)
    assert caught.value.number == 19


def test_an_answer_in_pieces(tmp_path: Path) -> None:
    answer = Message(type=4)
    answer.u.pid = 99

    def act(peer: socket.socket) -> None:
        for byte in bytes(answer):
            peer.sendall(bytes([byte]))

    assert serve(tmp_path / "s", act).pid() == 99


def test_an_answer_to_something_else(tmp_path: Path) -> None:
    control = serve(tmp_path / "s", lambda peer: peer.sendall(bytes(Message(type=6))))
    with pytest.raises(DatapathFailed, match="answers PID with message 6"):
        control.pid()


@pytest.mark.parametrize("length", [0, 1, 543])
def test_half_an_answer_is_none(tmp_path: Path, length: int) -> None:
    control = serve(tmp_path / "s", lambda peer: peer.sendall(bytes(Message(type=10))[:length]))
    with pytest.raises(OutcomeUnknown, match=f"closed after {length} of 544"):
        control.pause(3, 5)


def test_a_list_without_its_end_is_none(tmp_path: Path) -> None:
    each = Message(type=20)
    each.u.list.count = 2
    control = serve(tmp_path / "s", lambda peer: peer.sendall(bytes(each)))
    with pytest.raises(OutcomeUnknown):
        control.list()


def test_silence_has_an_end(tmp_path: Path) -> None:
    stop = threading.Event()
    control = serve(tmp_path / "s", lambda peer: stop.wait(20) and None)
    with pytest.raises(OutcomeUnknown, match=r"no answer in 0\.5 s|timed out"):
        control.pid()
    stop.set()


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(OutcomeUnknown, match="cannot be reached"):
        Control(tmp_path / "s", 0.5).pid()


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff"])
def test_statistics_that_are_none(tmp_path: Path, text: bytes) -> None:
    answer = Message(type=22)
    answer.u.stat.length = len(text)
    control = serve(tmp_path / "s", lambda peer: peer.sendall(bytes(answer) + text))
    with pytest.raises(DatapathFailed, match="statistics are no"):
        control.statistics(0)


def test_statistics_without_end(tmp_path: Path) -> None:
    answer = Message(type=22)
    answer.u.stat.length = 1 << 40
    control = serve(tmp_path / "s", lambda peer: peer.sendall(bytes(answer)))
    with pytest.raises(DatapathFailed, match="bytes of statistics"):
        control.statistics(0)
