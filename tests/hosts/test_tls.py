"""Hosts that call each other over TLS: both must have a certificate of the pool's authority."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sm import config
from sm.config import Credentials
from sm.errors import HostUnreachable
from sm.remote import client
from sm.remote.server import MAX_CALLS
from tests.datapath.clients import content, qemu_io
from tests.hosts.certificates import Authority
from tests.hosts.hosts import Host
from tests.support.patience import patient
from tests.support.plugin import EXECUTABLES
from tests.support.site import MIB

LISTEN = {"host_listen": "tls://localhost:0"}


@dataclass
class Secured:
    """Two hosts, and the authority that both trust."""

    authority: Authority
    first: Host
    second: Host

    def address(self, host: Host) -> str:
        with host.pool() as pool:
            return str(pool.this_host().address)

    def call(self, host: Host, options: dict[str, str] | None) -> str:
        """Whom `host` says that it is, when called with certain certificates."""
        shown = None
        if options is not None:
            names = ("host_certificate", "host_key", "host_authority")
            shown = Credentials(*(Path(options[name]) for name in names))
        answer = json.loads(client.ask(self.address(host), "hello", {}, shown))
        return str(answer["result"]["host"])


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    authority = Authority(tmp_path / "authority")
    first, second = (
        Host(tmp_path, name, tmp_path / "p.db", **authority.give(name, "DNS:localhost"), **LISTEN)
        for name in ("alpha", "beta")
    )
    for host in (first, second):
        host.start()
    yield Secured(authority, first, second)
    for host in (first, second):
        if host.service is not None:
            host.kill()


def test_hosts_merge_through_each_other(secured: Secured, tmp_path: Path) -> None:
    first, second = secured.first, secured.second
    assert secured.address(second).startswith("tls://localhost:")
    location = ("--device-config", f"location={tmp_path / 'images'}")
    sr = str(first.sm("sr", "create", "--shared", *location)["uuid"])
    second.sm("sr", "attach", sr)
    disk = first.create_vdi(sr, "qcow2")
    uri = second.activate(disk)
    data = b""
    for number in range(1, 4):
        qemu_io(uri, f"write -P {number} {(number - 1) * MIB} {MIB}")
        data += bytes([number]) * MIB
        if number < 3:
            first.delete(first.snapshot(disk))
    done = first.collect(sr)["done"]
    assert [step["through"] for step in done if step["action"] == "leaf-coalesce"] == [disk]
    assert content(uri, 8 * MIB) == data + bytes(5 * MIB)
    second.deactivate(disk)


def test_only_certificates_of_the_authority_get_in(secured: Secured, tmp_path: Path) -> None:
    good = secured.authority.give("another", "DNS:another")
    assert secured.call(secured.second, good) == secured.second.uuid
    stranger = Authority(tmp_path / "stranger").give("x", "DNS:localhost")
    # Strangers to the host, however much they trust its authority; and without any certificate.
    with pytest.raises(HostUnreachable):
        secured.call(secured.second, {**stranger, "host_authority": good["host_authority"]})
    with pytest.raises(HostUnreachable, match="no certificate"):
        secured.call(secured.second, None)
    port = int(secured.address(secured.second).rpartition(":")[2])
    with socket.create_connection(("localhost", port), timeout=patient(10)) as plain:
        plain.sendall(b"POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(100)
    assert secured.call(secured.second, good) == secured.second.uuid


def test_a_host_that_cannot_prove_its_name_is_not_believed(
    secured: Secured, tmp_path: Path
) -> None:
    good = secured.authority.give("another", "DNS:another")
    stranger = Authority(tmp_path / "stranger")
    for number, shown in enumerate(
        # Of a stranger's authority; of ours, but for another name.
        (stranger.give("x", "DNS:localhost"), secured.authority.give("y", "DNS:elsewhere"))
    ):
        options = {**shown, "host_authority": good["host_authority"]}
        host = Host(tmp_path, f"false{number}", tmp_path / "p.db", **options, **LISTEN)
        host.start_unheard()
        with pytest.raises(HostUnreachable, match="certificate verify failed"):
            secured.call(host, good)
        host.kill()


def test_tls_without_certificates_is_refused(tmp_path: Path) -> None:
    for options in (LISTEN, {**LISTEN, **dict.fromkeys(("host_certificate",), "/nowhere")}):
        host = Host(tmp_path, f"h{len(options)}", tmp_path / "p.db", **options)
        ended = host.process(str(EXECUTABLES / "sm-hostd"), timeout=patient(60))
        assert ended.returncode == 1
        assert "host_key" in ended.stderr
    files = ("host_certificate", "host_key", "host_authority")
    host = Host(tmp_path, "h", tmp_path / "p.db", **LISTEN, **dict.fromkeys(files, "no.pem"))
    credentials = config.load(host.root).credentials
    assert credentials is not None
    assert credentials.key == host.root / "no.pem"
    ended = host.process(str(EXECUTABLES / "sm-hostd"), timeout=patient(60))
    assert (ended.returncode, "TLS cannot use" in ended.stderr) == (1, True)


def test_strangers_who_say_nothing_do_not_keep_hosts_out(secured: Secured) -> None:
    """More of them than calls may be under way, and than may be there unknown."""
    port = int(secured.address(secured.second).rpartition(":")[2])
    silent = [socket.create_connection(("localhost", port)) for _ in range(4 * MAX_CALLS + 40)]
    rows = {row["uuid"]: row["answers"] for row in secured.first.sm("host", "list")}
    assert rows[secured.second.uuid] is True
    for each in silent:
        each.close()
