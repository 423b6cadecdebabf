"""The FileSR executable with XAPI's own database behind it, over XAPI's socket."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sm import config
from sm.commands.call import Call
from sm.drivers.iscsi import LvmOverIscsiSr
from sm.errors import SmError
from sm.smapi.request import Request
from tests.pool.xapi_server import XapiServer
from tests.support.patience import patient
from tests.support.plugin import Plugin
from tests.support.site import MIB


@dataclass
class Toolstack:
    """A host with XAPI, an SR, and the driver that XAPI calls."""

    xapi: XapiServer
    plugin: Plugin
    sr: str
    sr_uuid: str
    location: Path

    def vdis(self) -> dict[str, dict[str, Any]]:
        """XAPI's VDI records by UUID."""
        return {record["uuid"]: record for record in self.xapi.records["VDI"].values()}

    def vdi(self, vdi_uuid: str) -> dict[str, str]:
        """The members that name a VDI."""
        for ref, record in self.xapi.records["VDI"].items():
            if record["uuid"] == vdi_uuid:
                return {"vdi_ref": ref, "vdi_uuid": vdi_uuid, "vdi_location": record["location"]}
        raise KeyError(vdi_uuid)


@pytest.fixture
def toolstack(tmp_path: Path) -> Iterator[Toolstack]:
    """A running XAPI and an attached SR."""
    with XapiServer(tmp_path / "xapi") as xapi:
        host = xapi.add_host()
        inventory = xapi.write_inventory(tmp_path / "inventory", host)
        location = tmp_path / "images"
        sr_uuid = str(uuid.uuid4())
        sr = xapi.add_sr("file", sr_uuid)
        xapi.add_pbd(sr, host, {"location": str(location)}, currently_attached=True)
        root = tmp_path / "root"
        root.mkdir()
        (root / "sm.conf").write_text(
            f"[sm]\npool = xapi\nxapi_socket = {xapi.path}\nxapi_inventory = {inventory}\n"
        )
        plugin = Plugin(
            root,
            members={
                "host_ref": host,
                "session_ref": xapi.new_session(),
                "device_config": {"SRmaster": "true", "location": str(location)},
                "sr_ref": sr,
                "sr_uuid": sr_uuid,
            },
        )
        assert plugin.call("sr_create", "0") is None
        assert plugin.call("sr_attach") is None
        yield Toolstack(xapi, plugin, sr, sr_uuid, location)


def create(toolstack: Toolstack, image_format: str = "qcow2") -> str:
    """A new disk."""
    arguments = (str(8 * MIB), "disk", "", "", "false", "19700101T00:00:00Z", "", "false")
    info = toolstack.plugin.call(
        "vdi_create", *arguments, vdi_sm_config={"image-format": image_format}
    )
    return str(info["uuid"])


def test_records_are_there_before_the_reply(toolstack: Toolstack) -> None:
    disk = create(toolstack)
    record = toolstack.vdis()[disk]
    assert record["virtual_size"] == str(8 * MIB)
    assert record["sm_config"] == {"image-format": "qcow2", "vdi_type": "qcow2"}
    assert record["managed"] is True
    snapshot = toolstack.plugin.call("vdi_snapshot", driver_params={}, **toolstack.vdi(disk))
    record = toolstack.vdis()[snapshot["uuid"]]
    assert record["is_a_snapshot"] is True
    assert record["snapshot_of"] == toolstack.vdi(disk)["vdi_ref"]
    assert toolstack.plugin.call("vdi_update", **toolstack.vdi(snapshot["uuid"])) is None
    (base,) = [record for record in toolstack.vdis().values() if not record["managed"]]
    assert toolstack.vdis()[disk]["sm_config"]["vhd-parent"] == base["uuid"]


def test_sizes_reach_xapi(toolstack: Toolstack) -> None:
    create(toolstack)
    assert toolstack.plugin.call("sr_scan") is None
    record = toolstack.xapi.records["SR"][toolstack.sr]
    assert record["virtual_allocation"] == str(8 * MIB)
    assert int(record["physical_size"]) > 0


def test_host_keys_are_xapis(toolstack: Toolstack) -> None:
    disk = create(toolstack)
    assert toolstack.plugin.call("vdi_activate", "true", **toolstack.vdi(disk)) is None
    key = f"host_{toolstack.plugin.members['host_ref']}"
    assert toolstack.vdis()[disk]["sm_config"][key] == "RW"
    assert toolstack.plugin.call("vdi_deactivate", **toolstack.vdi(disk)) is None
    assert key not in toolstack.vdis()[disk]["sm_config"]


def test_the_session_is_never_ended(toolstack: Toolstack) -> None:
    create(toolstack)
    assert "session.logout" not in toolstack.xapi.calls
    assert toolstack.xapi.logins == 0


def test_an_ended_session_is_a_fault(toolstack: Toolstack) -> None:
    toolstack.xapi.end_sessions()
    assert toolstack.plugin.fault("sr_scan").faultCode in (150, 153)


def test_the_collector_logs_in_by_itself(toolstack: Toolstack) -> None:
    disk = create(toolstack, "vhd")
    snapshot = toolstack.plugin.call("vdi_snapshot", **toolstack.vdi(disk))["uuid"]
    assert toolstack.plugin.call("vdi_delete", **toolstack.vdi(snapshot)) is None
    ended = subprocess.run(
        [sys.executable, "-m", "sm.gc.daemon", "--sr", toolstack.sr_uuid, "--once"],
        env={**os.environ, "SM_ROOT": str(toolstack.plugin.root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(60),
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert set(toolstack.vdis()) == {disk}
    assert [path.name for path in toolstack.location.glob("*.vhd")] == [f"{disk}.vhd"]
    assert toolstack.xapi.logins == 1
    assert "session.logout" in toolstack.xapi.calls


def test_a_secret_of_xapis_reaches_the_driver(
    toolstack: Toolstack, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = toolstack.xapi.add_secret("p#ss=w0rd")
    given = {"chapuser": "me", "chappassword_secret": secret, "SRmaster": "true"}
    monkeypatch.setenv("SM_ROOT", str(toolstack.plugin.root))
    members = {**toolstack.plugin.members, "command": "sr_attach", "device_config": given}
    settings = config.load(toolstack.plugin.root)

    def seen(uuid: str) -> dict[str, str]:
        wanted = {**members, "device_config": {**given, "chappassword_secret": uuid}}
        call = Call(Request.model_validate(wanted), LvmOverIscsiSr(settings), settings)
        try:
            return call.device_config
        finally:
            call.close()

    assert seen(secret) == {"chapuser": "me", "chappassword": "p#ss=w0rd", "SRmaster": "true"}
    with pytest.raises(SmError) as raised:
        seen(str(uuid.uuid4()))
    assert raised.value.code == 20
