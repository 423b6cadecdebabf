"""What is particular to XAPI: sessions, broken connections, and replies that make no sense."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from xmlrpc.client import DateTime

import pytest

from sm.errors import DuplicateKey, PoolError
from sm.pool.base import NewVdi
from sm.pool.errors import PoolHostUnknown, PoolProtocolError, PoolUnreachable
from sm.pool.xapi import XapiPool
from tests.pool.conftest import HOST_UUID, SR_UUID, PoolSite
from tests.pool.xapi_server import XapiServer
from tests.support.patience import patient

HERE = Path(__file__).resolve().parents[2]
CHILD_SECONDS = math.ceil(patient(30))
"""After which a forked process that hangs is ended."""
VDI_UUID = "8a3f5a5e-3e0c-4c0e-8f2d-000000000001"


@pytest.fixture
def inventory(xapi: PoolSite, tmp_path: Path) -> Path:
    return tmp_path / "inventory"


def test_the_session_of_a_request_is_used_and_left_open(
    xapi: PoolSite, xapi_server: XapiServer, inventory: Path
) -> None:
    given = xapi_server.new_session()
    with XapiPool(xapi_server.path, inventory, given) as pool:
        assert pool.sr_by_uuid(SR_UUID).ref == xapi.sr_ref
    assert (xapi_server.sessions, xapi_server.logins) == ({given}, 0)
    assert "session.logout" not in xapi_server.calls
    xapi_server.end_sessions()


def test_the_session_of_a_request_is_not_replaced(
    xapi: PoolSite, xapi_server: XapiServer, inventory: Path
) -> None:
    pool = XapiPool(xapi_server.path, inventory, xapi_server.new_session())
    assert pool.srs()
    xapi_server.end_sessions()
    with pytest.raises(PoolUnreachable) as raised:
        pool.srs()
    pool.close()
    assert raised.value.code == 150
    assert xapi_server.logins == 0


def test_a_session_of_our_own_is_opened_once_and_ended(
    xapi: PoolSite, xapi_server: XapiServer
) -> None:
    with xapi.pool as pool:
        pool.srs()
        pool.hosts()
        assert xapi_server.logins == len(xapi_server.sessions) == 1
    assert not xapi_server.sessions
    assert xapi_server.calls[-1] == "session.logout"


def test_a_session_of_our_own_is_opened_again_after_a_restart(
    xapi: PoolSite, xapi_server: XapiServer
) -> None:
    xapi.pool.add_to_sr_sm_config(xapi.sr_ref, "a", "1")
    xapi_server.end_sessions()
    xapi_server.drop_connections()
    xapi.pool.add_to_sr_sm_config(xapi.sr_ref, "b", "2")
    assert xapi.pool.sr(xapi.sr_ref).sm_config == {"a": "1", "b": "2"}
    assert xapi_server.logins == 2


def test_closing_after_the_session_has_gone_is_no_error(
    xapi: PoolSite, xapi_server: XapiServer
) -> None:
    xapi.pool.srs()
    xapi_server.end_sessions()
    xapi.pool.close()


def test_a_listing_is_one_call(xapi: PoolSite, xapi_server: XapiServer) -> None:
    other = xapi_server.add_sr()
    xapi_server.add_vdi(other)
    wanted = {xapi_server.add_vdi(xapi.sr_ref) for _ in range(50)}
    xapi.pool.srs()
    before = len(xapi_server.calls)
    assert {record.ref for record in xapi.pool.vdis(xapi.sr_ref)} == wanted
    assert xapi_server.calls[before:] == ["VDI.get_all_records_where"]


def test_only_what_differs_is_written(xapi: PoolSite, xapi_server: XapiServer) -> None:
    vdi = xapi.pool.introduce_vdi(NewVdi(VDI_UUID, xapi.sr_ref, 5))
    before = len(xapi_server.calls)
    xapi.pool.update_vdi(vdi, virtual_size=5, managed=False)
    sets = [call for call in xapi_server.calls[before:] if ".set_" in call]
    assert sets == ["VDI.set_managed"]


def test_the_wire_carries_integers_as_strings_and_times_as_dates(
    xapi: PoolSite, xapi_server: XapiServer
) -> None:
    vdi = xapi.pool.introduce_vdi(
        NewVdi(VDI_UUID, xapi.sr_ref, 1 << 41, snapshot_time="2024-01-31T12:00:00Z")
    )
    record = xapi_server.records["VDI"][vdi]
    assert record["virtual_size"] == str(1 << 41)
    assert record["snapshot_time"] == DateTime("20240131T12:00:00Z")
    task = xapi.pool.create_task("coalescing", xapi.sr_ref)
    assert xapi_server.records["task"][task]["other_config"] == {"applies_to": xapi.sr_ref}
    xapi_server.records["task"].clear()


def test_tasks_of_others_are_left_out(xapi: PoolSite, xapi_server: XapiServer) -> None:
    mine = xapi.pool.create_task("coalescing", xapi.sr_ref)
    xapi.pool.create_task("coalescing", "OpaqueRef:other")
    xapi_server._task_create("VM.start", "")
    assert [task.ref for task in xapi.pool.tasks(xapi.sr_ref)] == [mine]


def test_nobody_there(tmp_path: Path) -> None:
    pool = XapiPool(tmp_path / "nowhere", tmp_path / "inventory")
    with pytest.raises(PoolUnreachable, match="nowhere"):
        pool.srs()
    pool.close()


def test_which_host_this_is_must_be_known(
    xapi: PoolSite, xapi_server: XapiServer, tmp_path: Path
) -> None:
    for content in ("", "INSTALLATION_UUID=''\n", f"X={HOST_UUID}\n", "INSTALLATION_UUID='other'"):
        (tmp_path / "odd").write_text(content, encoding="ascii")
        with (
            XapiPool(xapi_server.path, tmp_path / "odd") as pool,
            pytest.raises(PoolHostUnknown, match="odd") as raised,
        ):
            pool.this_host()
        assert raised.value.code == 151
    with (
        XapiPool(xapi_server.path, tmp_path / "none") as pool,
        pytest.raises(PoolHostUnknown, match="none"),
    ):
        pool.this_host()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("virtual_size", 5),
        ("virtual_size", "many"),
        ("managed", "true"),
        ("sm_config", {"a": 1}),
        ("sm_config", "a"),
        ("uuid", None),
        ("snapshot_time", "never"),
        ("location", ...),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(
    xapi: PoolSite, xapi_server: XapiServer, field: str, value: object
) -> None:
    vdi = xapi_server.add_vdi(xapi.sr_ref, VDI_UUID)
    assert xapi.pool.vdi(vdi).uuid == VDI_UUID
    record = xapi_server.records["VDI"][vdi]
    if value is ...:
        del record[field]
    else:
        record[field] = value
    with pytest.raises(PoolProtocolError, match=field) as raised:
        xapi.pool.vdi(vdi)
    assert raised.value.code == 154


def test_a_refusal_of_xapi_is_passed_on(xapi: PoolSite, xapi_server: XapiServer) -> None:
    del xapi_server.records["PBD"]
    with pytest.raises(PoolError, match="MESSAGE_METHOD_UNKNOWN") as raised:
        xapi.pool.pbds(xapi.sr_ref)
    assert raised.value.code == 153


def answering(path: Path, answers: list[bytes]) -> tuple[threading.Thread, list[bytes]]:
    """A server that reads one request on each connection and answers with given bytes."""
    requests: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener:
            for answer in answers:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as stream:
                    length = 0
                    while (line := stream.readline().strip()) != b"":
                        name, _, text = line.partition(b":")
                        if name.lower() == b"content-length":
                            length = int(text)
                    requests.append(stream.read(length))
                    connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread, requests


def http(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 1000\r\n\r\n<method",
        b"rubbish\r\n\r\n",
        http(b""),
        http(b"<html></html>"),
        http(b"<methodResponse><params><param><value>x</value></param></params></methodResponse>"),
        http(b"<methodResponse><params></params></methodResponse>"),
        http(
            b"<methodResponse><params><param><value><struct/></value></param></params>"
            b"</methodResponse>"
        ),
    ],
)
def test_a_broken_reply_is_reported_and_a_change_not_sent_twice(
    tmp_path: Path, answer: bytes
) -> None:
    thread, requests = answering(tmp_path / "xapi", [answer, answer])
    pool = XapiPool(tmp_path / "xapi", tmp_path / "inventory", "OpaqueRef:session")
    with pytest.raises(PoolProtocolError) as raised:
        pool.add_to_vdi_sm_config("OpaqueRef:vdi", "host_x", "RW")
    assert raised.value.code == 154
    assert len(requests) == 1
    # The second answer is for a getter, which is asked again only when the connection broke.
    with pytest.raises(PoolError):
        pool.srs()
    thread.join(patient(10))
    assert len(requests) == 2
    pool.close()


def test_a_getter_is_asked_again_on_a_broken_connection(xapi: PoolSite, tmp_path: Path) -> None:
    body = (
        b"<methodResponse><params><param><value><struct>"
        b"<member><name>Status</name><value>Success</value></member>"
        b"<member><name>Value</name><value><struct/></value></member>"
        b"</struct></value></param></params></methodResponse>"
    )
    thread, requests = answering(tmp_path / "other", [b"", http(body)])
    pool = XapiPool(tmp_path / "other", tmp_path / "inventory", "OpaqueRef:session")
    assert pool.srs() == []
    thread.join(patient(10))
    assert len(requests) == 2
    pool.close()


def test_an_idle_connection_that_was_closed_is_replaced(
    xapi: PoolSite, xapi_server: XapiServer
) -> None:
    for number in range(5):
        xapi.pool.add_to_sr_sm_config(xapi.sr_ref, str(number), "x")
        xapi_server.drop_connections()
    assert len(xapi.pool.sr(xapi.sr_ref).sm_config) == 5


def test_a_forked_process_has_a_session_of_its_own(xapi: PoolSite, xapi_server: XapiServer) -> None:
    xapi.pool.add_to_sr_sm_config(xapi.sr_ref, "parent", "x")
    child = os.fork()
    if child == 0:
        signal.alarm(CHILD_SECONDS)
        code = 1
        try:
            xapi.pool.add_to_sr_sm_config(xapi.sr_ref, "child", "x")
            xapi.pool.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(xapi_server.sessions) == 1
    with pytest.raises(DuplicateKey):
        xapi.pool.add_to_sr_sm_config(xapi.sr_ref, "child", "x")
    assert xapi_server.logins == 2


def test_the_server_runs_as_a_process(tmp_path: Path) -> None:
    path = tmp_path / "xapi.sock"
    argv = [sys.executable, "-m", "tests.pool.xapi_server", str(path)]
    argv += ["--host-uuid", HOST_UUID, "--sr", f"{SR_UUID}:file:location=/srv/a"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=HERE) as server:
        assert server.stdout is not None
        said: dict[str, Any] = json.loads(server.stdout.readline())
        pool = XapiPool(path, tmp_path / "inventory", said["session_ref"])
        assert pool.sr_by_uuid(SR_UUID).ref == said["srs"][SR_UUID]
        [pbd] = pool.pbds(said["srs"][SR_UUID])
        assert (pbd.host, pbd.device_config) == (said["host_ref"], {"location": "/srv/a"})
        pool.close()
        server.send_signal(signal.SIGTERM)
        assert server.wait(patient(10)) == 0
    assert not path.exists()
