"""XAPI's host plugins, run as XAPI runs them; and two hosts of a pool that XAPI keeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sm import config
from sm.errors import HostUnreachable, SmError
from sm.owner import Owner
from sm.pool.xapi import XapiPool
from tests.datapath.clients import content, qemu_io
from tests.pool.xapi_server import PLUGINS, XapiServer
from tests.support.patience import patient
from tests.support.plugin import EXECUTABLES, Plugin
from tests.support.site import MIB

pytestmark = pytest.mark.one_in(2)

SIZE = 8 * MIB


def environment(root: Path) -> dict[str, str]:
    """What a plugin finds on a host."""
    return {"PATH": f"{EXECUTABLES}:{os.environ['PATH']}", "SM_ROOT": str(root)}


@dataclass
class XapiHost:
    """One host of XAPI's pool, with the driver that XAPI calls there."""

    ref: str
    root: Path
    plugin: Plugin
    pool: XapiPool


@dataclass
class XapiHosts:
    """Two hosts that share an SR; the first is the pool master."""

    xapi: XapiServer
    first: XapiHost
    second: XapiHost
    sr_uuid: str

    def members(self, vdi_uuid: str) -> dict[str, str]:
        """The members of a request that name a VDI."""
        for ref, record in self.xapi.records["VDI"].items():
            if record["uuid"] == vdi_uuid:
                return {"vdi_ref": ref, "vdi_uuid": vdi_uuid, "vdi_location": vdi_uuid}
        raise KeyError(vdi_uuid)

    def call(self, host: XapiHost, command: str, *args: str, vdi: str) -> Any:
        """A command on a VDI, on one host."""
        return host.plugin.call(command, *args, **self.members(vdi))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[XapiHosts]:
    with XapiServer(tmp_path / "xapi") as xapi:
        sr_uuid, location = str(uuid.uuid4()), tmp_path / "images"
        sr = xapi.add_sr("file", sr_uuid, shared=True)
        made = []
        for number, name in enumerate(("alpha", "beta")):
            ref = xapi.add_host(name)
            inventory = xapi.write_inventory(tmp_path / f"inventory-{name}", ref)
            xapi.add_pbd(sr, ref, {"location": str(location)}, currently_attached=True)
            root = tmp_path / name
            root.mkdir()
            (root / "sm.conf").write_text(
                f"[sm]\npool = xapi\nxapi_socket = {xapi.path}\nxapi_inventory = {inventory}\n"
            )
            members = {
                "host_ref": ref,
                "session_ref": xapi.new_session(),
                "device_config": {
                    "SRmaster": "false" if number else "true",
                    "location": str(location),
                },
                "sr_ref": sr,
                "sr_uuid": sr_uuid,
            }
            xapi.plugins[ref] = environment(root)
            pool = XapiPool(xapi.path, inventory)
            made.append(XapiHost(ref, root, Plugin(root, members=members), pool))
        made[0].plugin.call("sr_create", "0")
        for host in made:
            host.plugin.call("sr_attach")
        yield XapiHosts(xapi, made[0], made[1], sr_uuid)
        for host in made:
            host.pool.close()


def run(name: str, root: Path, *arguments: str) -> dict[str, Any]:
    """Run a plugin as XAPI does; returns its reply."""
    ended = subprocess.run(
        [str(PLUGINS / name), *arguments],
        env=environment(root),
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(60),
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    ((reply,), _) = xmlrpc.client.loads(ended.stdout)
    assert isinstance(reply, dict)
    return reply


def make(hosts: XapiHosts) -> str:
    """A new disk."""
    arguments = (str(SIZE), "disk", "", "", "false", "19700101T00:00:00Z", "", "false")
    hints = {"image-format": "qcow2"}
    info = hosts.first.plugin.call("vdi_create", *arguments, vdi_sm_config=hints)
    return str(info["uuid"])


def uri(host: XapiHost, hosts: XapiHosts, disk: str) -> str:
    """Where a disk is served, as its host says."""
    arguments = {"sr_uuid": hosts.sr_uuid, "vdi_uuid": disk}
    answer = json.loads(hosts.first.pool.call_host(host.ref, "look", arguments))
    return str(answer["result"]["nbd"])


def test_the_master_is_the_pool_master(hosts: XapiHosts) -> None:
    for host, expected in ((hosts.first, True), (hosts.second, False)):
        shared = host.pool.sr_by_uuid(hosts.sr_uuid)
        assert host.pool.is_sr_master(shared) is expected
    local = hosts.second.pool.sr(hosts.xapi.add_sr())
    assert hosts.second.pool.is_sr_master(local)


def test_a_merge_goes_through_the_host_that_serves_the_disk(hosts: XapiHosts) -> None:
    disk = make(hosts)
    hosts.call(hosts.second, "vdi_activate", "true", vdi=disk)
    served = uri(hosts.second, hosts, disk)
    data = b""
    for number in range(1, 4):
        qemu_io(served, f"write -P {number} {(number - 1) * MIB} {MIB}")
        data += bytes([number]) * MIB
        if number < 3:
            snapshot = hosts.call(hosts.first, "vdi_snapshot", vdi=disk)["uuid"]
            hosts.call(hosts.first, "vdi_delete", vdi=snapshot)
    for host, code in ((hosts.second, 1), (hosts.first, 0)):
        ended = subprocess.run(
            [sys.executable, "-m", "sm.gc.daemon", "--sr", hosts.sr_uuid, "--once"],
            env={**os.environ, "SM_ROOT": str(host.root)},
            capture_output=True,
            text=True,
            check=False,
            timeout=patient(60),
        )
        assert ended.returncode == code, ended.stderr
    assert len(hosts.xapi.records["VDI"]) == 1
    assert hosts.xapi.calls.count("host.call_plugin") > 5
    assert content(served, SIZE) == data + bytes(SIZE - len(data))
    hosts.call(hosts.second, "vdi_deactivate", vdi=disk)


def test_a_claim_names_a_host_that_can_be_asked(hosts: XapiHosts) -> None:
    """What a crash on the first host left is cleared there, for an activation on the second."""
    disk = make(hosts)
    uuids = [hosts.xapi.records["host"][host.ref]["uuid"] for host in (hosts.first, hosts.second)]
    assert [config.load(host.root).host_uuid for host in (hosts.first, hosts.second)] == uuids
    owner = Owner(uuids[0], "another boot", 1, 1, "vdi_resize").text
    claim = json.dumps({"id": "x", "images": [disk], "owner": owner})
    sr = hosts.first.pool.sr_by_uuid(hosts.sr_uuid)
    hosts.first.pool.add_to_sr_sm_config(sr.ref, f"changing-{disk}", claim)
    hosts.call(hosts.second, "vdi_activate", "true", vdi=disk)
    assert hosts.first.pool.sr_by_uuid(hosts.sr_uuid).sm_config == {}
    hosts.call(hosts.second, "vdi_deactivate", vdi=disk)


def test_errors_come_back_as_what_they_are(hosts: XapiHosts) -> None:
    pool, second = hosts.first.pool, hosts.second.ref
    answer = json.loads(pool.call_host(second, "look", {"sr_uuid": str(uuid.uuid4())}))
    assert answer["error"]["name"] == "SRUnavailable"
    answer = json.loads(pool.call_host(second, "explode", {"sr_uuid": hosts.sr_uuid}))
    assert answer["error"]["name"] == "BadRequest"
    del hosts.xapi.plugins[second]
    with pytest.raises(HostUnreachable, match="HOST_OFFLINE"):
        pool.call_host(second, "hello", {})
    hosts.xapi.plugins[second] = {"PATH": "/nowhere"}  # where there is no interpreter
    with pytest.raises(SmError, match="non-zero exit") as raised:
        pool.call_host(second, "hello", {})
    assert not isinstance(raised.value, HostUnreachable)


def test_a_broken_connection_to_xapi_is_not_repeated(hosts: XapiHosts) -> None:
    pool, second = hosts.first.pool, hosts.second.ref
    assert json.loads(pool.call_host(second, "hello", {}))["result"]["version"]
    hosts.xapi._host_call_plugin = lambda *_: hosts.xapi.drop_connections()  # type: ignore[method-assign, assignment]
    before = hosts.xapi.calls.count("host.call_plugin")
    with pytest.raises(HostUnreachable):
        pool.call_host(second, "hello", {})
    assert hosts.xapi.calls.count("host.call_plugin") == before + 1


def test_tapdisk_pause(hosts: XapiHosts) -> None:
    disk = make(hosts)
    named = {"sr_uuid": hosts.sr_uuid, "vdi_uuid": disk}

    def ask(function: str, arguments: dict[str, str]) -> dict[str, Any]:
        session = hosts.xapi.new_session()
        document = xmlrpc.client.dumps((session, arguments), function)
        return run("tapdisk-pause", hosts.second.root, document)

    # Nobody serves it, so nobody has to wait.
    for function in ("pause", "unpause", "refresh"):
        assert ask(function, named) == {"Status": "Success", "Value": "True"}
    hosts.call(hosts.second, "vdi_activate", "true", vdi=disk)
    served = uri(hosts.second, hosts, disk)
    qemu_io(served, f"write -P 6 0 {MIB}")
    assert ask("refresh", {**named, "activate_parents": "True"})["Value"] == "True"
    assert content(served, SIZE) == bytes([6]) * MIB + bytes(SIZE - MIB)
    for wrong, arguments in (
        ("explode", named),
        ("pause", {"sr_uuid": hosts.sr_uuid}),
        ("pause", {**named, "vdi_uuid": "../x"}),
        ("refresh", {**named, "vdi_uuid": str(uuid.uuid4())}),
    ):
        reply = ask(wrong, arguments)
        assert reply["Status"] == "Failure"
        assert reply["ErrorDescription"][0] == "XENAPI_PLUGIN_FAILURE"
    hosts.call(hosts.second, "vdi_deactivate", vdi=disk)


@pytest.mark.parametrize("name", ["sm", "tapdisk-pause"])
def test_senseless_calls_are_failures(tmp_path: Path, name: str) -> None:
    for arguments in (
        (),
        ("a", "b"),
        ("no XML",),
        (xmlrpc.client.dumps((), "hello"),),
        (xmlrpc.client.dumps(("session",), "hello"),),
        (xmlrpc.client.dumps(("session", {"a": 1}), "hello"),),
        (xmlrpc.client.dumps((1, {}), "hello"),),
    ):
        reply = run(name, tmp_path, *arguments)
        assert reply["Status"] == "Failure", arguments
        assert reply["ErrorDescription"][:2] == ["XENAPI_PLUGIN_FAILURE", "BadRequest"]
