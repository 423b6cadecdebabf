"""`sm-hostd` on the wire: what it lets in, what it answers, and how it ends."""

from __future__ import annotations

import http.client
import json
import socket
import stat
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sm.errors import HostUnreachable
from sm.hosts.actions import ACTIONS
from sm.hosts.calls import hello
from sm.remote import client, server
from sm.remote.address import TlsAddress, UnixAddress, parse
from sm.remote.server import HostServer
from tests.hosts.hosts import Host, Pool
from tests.support.patience import patient, until
from tests.support.plugin import EXECUTABLES
from tests.support.site import Refused

NOBODY = "8a3f5a5e-3e0c-4c0e-8f2d-000000000001"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path, "alpha", tmp_path / "pool.db")
    made.start()
    yield made
    if made.service is not None:
        made.kill()


def address(host: Host) -> str:
    with host.pool() as pool:
        return str(pool.this_host().address)


def ask(host: Host, function: str, **arguments: str) -> dict[str, Any]:
    """One call as another host makes it; returns result or error."""
    answer: dict[str, Any] = json.loads(client.ask(address(host), function, arguments, None))
    return answer


def post(host: Host, body: bytes, headers: dict[str, str] | None = None) -> int:
    """One HTTP request; returns the status."""
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(address(host).removeprefix("unix:"))
        connection = http.client.HTTPConnection("localhost")
        connection.sock = plain
        connection.putrequest("POST", "/")
        for name, value in (headers or {"Content-Length": str(len(body))}).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status


def test_it_says_who_it_is(host: Host) -> None:
    (row,) = host.sm("host", "list")
    assert (row["uuid"], row["name"], row["this_host"]) == (host.uuid, "alpha", True)
    assert (row["answers"], row["problem"]) == (True, None)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (row["boot"], row["version"]) == (boot, "0.1")


def test_its_socket_is_for_its_owner_alone(host: Host) -> None:
    path = Path(address(host).removeprefix("unix:"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_it_ends_on_sigterm_and_leaves_no_socket(host: Host) -> None:
    path = Path(address(host).removeprefix("unix:"))
    assert host.stop() == (0, "", "")
    assert not path.exists()
    (row,) = host.sm("host", "list")
    assert (row["answers"], row["address"]) == (False, f"unix:{path}")
    host.start()


def test_there_is_one_for_each_host(host: Host) -> None:
    ended = host.process(str(EXECUTABLES / "sm-hostd"), timeout=patient(60))
    assert ended.returncode == 1
    assert f"sm-hostd (process {host.service.pid}" in ended.stderr  # type: ignore[union-attr]
    assert host.answers()


def test_a_socket_that_a_crash_left_is_replaced(host: Host) -> None:
    host.kill()
    host.start()
    assert ask(host, "hello")["result"]["host"] == host.uuid


def test_a_call_that_reaches_the_wrong_host_is_refused(host: Host, tmp_path: Path) -> None:
    with host.pool() as pool:
        stray = pool.add_host(NOBODY, "stray")
        pool.set_host_address(stray, address(host))
        with pytest.raises(HostUnreachable, match=f"this is host {host.uuid}, not {NOBODY}"):
            hello(pool, stray)


def test_only_the_actions_can_be_asked_and_what_becomes_a_path_is_a_uuid(pool: Pool) -> None:
    for function in ("", "perform", "__class__", "serve", "activate", "HELLO"):
        assert ask(pool.second, function, sr_uuid=pool.sr)["error"]["name"] == "BadRequest"
    disk = pool.master.create_vdi(pool.sr, "qcow2")
    for bad in ("../../../etc/passwd", "", "x" * 1000, NOBODY[:-1] + "/"):
        for function in ACTIONS:
            answer = ask(pool.second, function, sr_uuid=bad, vdi_uuid=disk, chain="[]", claim="x")
            assert answer["error"]["name"] == "InvalidArg"
        of_no_disk = {"give_way", "kick", "serving"}
        for function in set(ACTIONS) - of_no_disk:
            answer = ask(pool.second, function, sr_uuid=pool.sr, vdi_uuid=bad, chain="[]")
            assert answer["error"]["name"] == "InvalidArg"
        for chain in (json.dumps([[bad, "qcow2"]]), json.dumps([[disk, bad]]), bad, "[1]", "{}1"):
            answer = ask(pool.second, "refresh", sr_uuid=pool.sr, vdi_uuid=disk, chain=chain)
            assert answer["error"]["name"] in ("InvalidArg", "BadRequest")
    for function in ACTIONS:
        assert "sr_uuid" in ask(pool.second, function)["error"]["detail"]
    for function in set(ACTIONS) - {"kick", "serving"}:  # which need nothing else
        error = ask(pool.second, function, sr_uuid=pool.sr)["error"]
        assert error["name"] == "BadRequest"
        assert "is missing" in error["detail"]


def test_an_sr_that_is_not_attached_there_is_said(pool: Pool) -> None:
    disk = pool.master.create_vdi(pool.sr, "qcow2")
    pool.second.sm("sr", "detach", pool.sr)
    error = ask(pool.second, "look", sr_uuid=pool.sr, vdi_uuid=disk)["error"]
    assert error["name"] == "SRUnavailable"
    with pytest.raises(Refused, match=r"host beta.*not attached on this host"):
        pool.master.sm("vdi", "reset", disk, "--host", "beta")


def test_senseless_documents_are_refused_and_it_goes_on(host: Host) -> None:
    wrong = (
        b"",
        b"no XML",
        b"\xff\xfe",
        b'<!DOCTYPE a [<!ENTITY b "c">]><methodCall><methodName>&b;</methodName></methodCall>',
        xmlrpc.client.dumps(("hello", {}), "other").encode(),
        xmlrpc.client.dumps(("hello",), "ask").encode(),
        xmlrpc.client.dumps(("hello", {"a": 1}), "ask").encode(),
        xmlrpc.client.dumps((["hello"], {}), "ask").encode(),
    )
    for body in wrong:
        assert post(host, body) == 400, body
    assert post(host, b"", {"Content-Length": "-1"}) == 411
    assert post(host, b"", {"Transfer-Encoding": "chunked"}) == 411
    assert post(host, b"", {"Content-Length": str(server.MAX_REQUEST + 1)}) == 413
    assert post(host, b"", {"Content-Length": "9" * 400}) == 413
    assert host.answers()


def test_whoever_dies_while_it_is_asked_is_unreachable(pool: Pool) -> None:
    """SIGKILL in the middle of an action: it waits for a lock that we hold."""
    disk = pool.master.create_vdi(pool.sr, "qcow2")
    repository = pool.second.repository(pool.sr)
    failed: list[HostUnreachable] = []

    def asking() -> None:
        with pool.master.pool() as mine:
            host = next(each.ref for each in mine.hosts() if each.uuid == pool.second.uuid)
            try:
                mine.call_host(host, "pause", {"sr_uuid": pool.sr, "vdi_uuid": disk})
            except HostUnreachable as error:
                failed.append(error)

    with repository.locks.hold("vdi", disk, "a test"):
        thread = threading.Thread(target=asking)
        thread.start()
        until(lambda: "asked to 'pause'" in log_of(pool.second))
        pool.second.kill()
        thread.join(patient(10))
    assert len(failed) == 1
    assert "host beta" in failed[0].detail


def log_of(host: Host) -> str:
    return (host.root / "log" / "sm.log").read_text()


@pytest.mark.parametrize(
    ("body", "length", "status"),
    [
        (b"", "9" * 5000, http.client.REQUEST_ENTITY_TOO_LARGE),
        (b"\xff\xfe", "2", http.client.BAD_REQUEST),
        (b"<a>" * 60_000, str(180_000), http.client.BAD_REQUEST),
        (
            b"<methodCall><methodName>ask</methodName><params><param><value><int>"
            + b"9" * 5000
            + b"</int></value></param></params></methodCall>",
            "",
            http.client.BAD_REQUEST,
        ),
    ],
)
def test_what_no_host_would_send(host: Host, body: bytes, length: str, status: int) -> None:
    assert post(host, body, {"Content-Length": length or str(len(body))}) == status
    assert "Traceback" not in log_of(host)


def test_a_chain_that_is_nested_too_deep(host: Host) -> None:
    sr = host.create_sr()
    disk = host.create_vdi(sr, "qcow2")
    answer = ask(host, "refresh", sr_uuid=sr, vdi_uuid=disk, chain="[" * 100_000)
    assert answer["error"]["name"] == "BadRequest"
    assert "Traceback" not in log_of(host)


# The server alone, with shorter limits

READ_SECONDS = patient(0.2)
"""For a whole request: those who are to be let go never end theirs."""


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostServer]:
    monkeypatch.setattr(server, "READ_SECONDS", READ_SECONDS)
    monkeypatch.setattr(server._Handler, "timeout", READ_SECONDS)
    monkeypatch.setattr(server, "MAX_CALLS", 2)
    made = HostServer(UnixAddress(tmp_path / "s"), lambda function, _: function.upper())
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.stop(patient(5))


def connected(listener: HostServer) -> socket.socket:
    plain = socket.socket(socket.AF_UNIX)
    plain.settimeout(patient(10))
    plain.connect(str(listener.address).removeprefix("unix:"))
    return plain


def drip(connection: socket.socket) -> None:
    """Send a byte now and then, for as long as somebody listens."""
    while True:
        connection.sendall(b" ")
        time.sleep(0.02)


def test_a_slow_caller_is_let_go(listener: HostServer) -> None:
    """By the deadline for all of the request, however regularly it drips."""
    with connected(listener) as slow:
        slow.sendall(b"POST / HTTP/1.0\r\nContent-Length: 1000\r\n\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            drip(slow)
    assert client.ask(str(listener.address), "on", {}, None) == "ON"


def test_a_caller_that_says_nothing_is_let_go(listener: HostServer) -> None:
    with connected(listener) as silent:
        assert silent.recv(1) == b""


def test_too_many_callers_wait_for_their_turn(listener: HostServer) -> None:
    """Two are silent and take both places; the third is answered once they are let go."""
    with connected(listener), connected(listener):
        until(lambda: listener._slots._value == 0)
        assert client.ask(str(listener.address), "third", {}, None) == "THIRD"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.0 500 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n<a/",
        b"HTTP/1.0 200 OK\r\n\r\n<methodResponse><params/></methodResponse>",
        b"HTTP/1.0 200 OK\r\n\r\n" + xmlrpc.client.dumps((1,), methodresponse=True).encode(),
        b"HTTP/1.0 200 OK\r\n\r\n" + xmlrpc.client.dumps(xmlrpc.client.Fault(1, "x")).encode(),
        b"SSH-2.0\r\n",
    ],
)
def test_a_broken_answer_is_none(tmp_path: Path, reply: bytes) -> None:
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()

        def answer() -> None:
            with listening.accept()[0] as connection:
                asked.append(connection.recv(65536))
                connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(HostUnreachable):
            client.ask(f"unix:{tmp_path / 's'}", "look", {}, None)
        thread.join(patient(10))
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):  # it is sent once
            listening.accept()
    assert len(asked) == 1


def test_no_answer_in_time_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.3)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()  # and nobody accepts
        with pytest.raises(HostUnreachable, match=r"no answer within|timed out"):
            client.ask(f"unix:{tmp_path / 's'}", "look", {}, None)


@pytest.mark.parametrize(
    "text",
    ["", "unix:relative", "unix:/nowhere/at/all", "tls://localhost", "ftp://a:1", "tls://:1"],
)
def test_an_address_that_leads_nowhere(text: str) -> None:
    with pytest.raises(HostUnreachable):
        client.ask(text, "look", {}, None)


def test_addresses_have_one_form() -> None:
    for text in ("unix:/run/x", "tls://alpha:4711", "tls://[2001:db8::1]:4711"):
        assert str(parse(text)) == text
    assert parse("tls://[::1]:5") == TlsAddress("::1", 5)


def test_a_long_root_is_no_obstacle(tmp_path: Path) -> None:
    host = Host(tmp_path / ("d" * 120), "alpha", tmp_path / "pool.db")
    host.start()
    try:
        assert len(address(host)) < 100
    finally:
        assert host.stop()[0] == 0
