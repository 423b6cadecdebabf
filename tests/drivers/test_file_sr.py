"""The FileSR executable as XAPI calls it, with the pool database that is ours."""

from __future__ import annotations

import os
import subprocess
import uuid
import xmlrpc.client
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from sm.pool.base import PoolAdmin
from tests.support.patience import patient
from tests.support.plugin import Plugin
from tests.support.site import MIB, Site


class Host:
    """What XAPI does around a driver: it keeps the records, and sends the requests."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.location = site.folder / "images"
        self.sr_uuid = str(uuid.uuid4())
        site.sm("sr", "list")  # makes the root and the host's identity
        pool = self.pool
        self.sr_ref = pool.introduce_sr(uuid=self.sr_uuid, sr_type="file")
        config = {"location": str(self.location)}
        pool.create_pbd(self.sr_ref, pool.this_host().ref, config)
        self.plugin = Plugin(
            site.root,
            members={
                "host_ref": pool.this_host().ref,
                "session_ref": "OpaqueRef:22222222-bbbb-4bbb-8bbb-000000000002",
                "device_config": {"SRmaster": "true", **config},
                "sr_ref": self.sr_ref,
                "sr_uuid": self.sr_uuid,
                "subtask_of": "OpaqueRef:44444444-dddd-4ddd-8ddd-000000000004",
                "local_cache_sr": "",
            },
        )

    @property
    def pool(self) -> PoolAdmin:
        """The pool database."""
        from unittest import mock

        from sm import config
        from sm.pool.open import open_pool

        with mock.patch.dict(os.environ, self.site.environment):
            pool = open_pool(config.load(), None)
        assert isinstance(pool, PoolAdmin)
        return pool

    def vdi(self, vdi_uuid: str) -> dict[str, Any]:
        """The members that name a VDI."""
        record = self.pool.vdi_by_uuid(vdi_uuid)
        return {"vdi_ref": record.ref, "vdi_uuid": vdi_uuid, "vdi_location": record.location}

    def create(self, size: int = 8 * MIB, **members: Any) -> dict[str, str]:
        """vdi_create with XAPI's eight arguments."""
        arguments = (str(size), "web disk", "of web01", "", "false", "19700101T00:00:00Z", "")
        info: dict[str, str] = self.plugin.call(
            "vdi_create", *arguments, "false", vdi_type="user", **members
        )
        return info


@pytest.fixture
def host(site: Site) -> Host:
    """An SR that was created and attached."""
    made = Host(site)
    assert made.plugin.call("sr_create", "0") is None
    assert made.plugin.call("sr_attach") is None
    return made


def test_driver_info_has_what_xapi_requires(tmp_path: Path) -> None:
    info = Plugin(tmp_path).call("sr_get_driver_info", host_ref="OpaqueRef:1", device_config={})
    for member in (
        "name",
        "description",
        "vendor",
        "copyright",
        "driver_version",
        "required_api_version",
    ):
        assert isinstance(info[member], str)
    assert info["required_api_version"] == "1.0"
    assert all(isinstance(name, str) for name in info["capabilities"])
    assert {"VDI_SNAPSHOT", "VDI_CLONE", "VDI_CREATE"} <= set(info["capabilities"])
    assert "VDI_CONFIG_CBT" not in info["capabilities"]
    assert {entry["key"] for entry in info["configuration"]} >= {"location"}
    assert set(info["supported_image_formats"]) == {"raw", "vhd", "qcow2"}
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a", "b"),
        ("rubbish",),
        ("<methodCall><methodName>vdi_fly</methodName><params/></methodCall>",),
        ("<methodCall><methodName>sr_scan</methodName><params/></methodCall>",),
    ],
)
def test_bad_calls_are_fault_143(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ended = Plugin(tmp_path).raw(*arguments)
    assert ended.returncode == 0
    with pytest.raises(xmlrpc.client.Fault) as raised:
        xmlrpc.client.loads(ended.stdout)
    assert raised.value.faultCode == 143
    assert "Traceback" not in ended.stdout


def test_unknown_command_is_143_and_unsupported_38(host: Host) -> None:
    assert host.plugin.fault("vdi_fly").faultCode == 143
    disk = host.create()
    fault = host.plugin.fault("vdi_enable_cbt", **host.vdi(disk["uuid"]))
    assert fault.faultCode == 38


def test_create_answers_location_and_uuid_and_keeps_the_hints(host: Host) -> None:
    hints = {"image-format": "vhd", "base_mirror": "x", "host_OpaqueRef:1": "RW", "paused": "true"}
    info = host.create(vdi_sm_config=hints)
    assert set(info) == {"location", "uuid"}
    assert info["location"] == info["uuid"]
    record = host.pool.vdi_by_uuid(info["uuid"])
    assert record.name_label == "web disk"
    assert record.virtual_size == 8 * MIB
    assert dict(record.sm_config) == {
        "image-format": "vhd",
        "vdi_type": "vhd",
        "base_mirror": "x",
    }
    assert (host.location / f"{info['uuid']}.vhd").is_file()


def test_create_honours_a_given_uuid(host: Host) -> None:
    wanted = str(uuid.uuid4())
    assert host.create(vdi_uuid=wanted)["uuid"] == wanted
    assert (
        host.plugin.fault(
            "vdi_create", str(MIB), "", "", "", "false", "", "", "false", vdi_uuid=wanted
        ).faultCode
        == 43
    )


@pytest.mark.parametrize(
    ("hints", "preferred", "size", "expected"),
    [
        ({}, "", 8 * MIB, "qcow2"),
        ({}, "vhd,qcow2", 8 * MIB, "vhd"),
        ({}, "weird,raw", 8 * MIB, "raw"),
        ({}, "vhd,qcow2", 3 << 40, "qcow2"),
        ({"type": "vhd"}, "", 8 * MIB, "vhd"),
        ({"image-format": "raw", "type": "vhd"}, "", 8 * MIB, "raw"),
        ({"image-format": "qcow2"}, "", 16 << 40, "qcow2"),
        ({"image-format": "vhd"}, "", 2040 << 30, "vhd"),
    ],
)
def test_choice_of_format(
    host: Host, hints: dict[str, str], preferred: str, size: int, expected: str
) -> None:
    config = {**host.plugin.members["device_config"], "preferred-image-formats": preferred}
    info = host.create(size, vdi_sm_config=hints, device_config=config)
    assert (host.location / f"{info['uuid']}.{expected}").is_file()
    assert host.pool.vdi_by_uuid(info["uuid"]).sm_config["image-format"] == expected


@pytest.mark.parametrize(
    ("hints", "size", "code"),
    [
        ({"image-format": "vmdk"}, 8 * MIB, 66),
        ({"image-format": "vhd"}, (2040 << 30) + 1, 79),
        ({"image-format": "qcow2"}, (16 << 40) + 1, 79),
        ({}, 0, 79),
    ],
)
def test_refused_creations_leave_nothing(
    host: Host, hints: dict[str, str], size: int, code: int
) -> None:
    before = sorted(host.location.iterdir())
    with pytest.raises(xmlrpc.client.Fault) as raised:
        host.create(size, vdi_sm_config=hints)
    assert raised.value.faultCode == code
    assert sorted(host.location.iterdir()) == before
    assert host.pool.vdis(host.sr_ref) == []


def test_life_of_a_disk(host: Host) -> None:
    disk = host.create()["uuid"]
    members = host.vdi(disk)
    snapshot = host.plugin.call("vdi_snapshot", driver_params={}, **members)["uuid"]
    clone = host.plugin.call("vdi_clone", driver_params={"image-format": "vhd"}, **members)["uuid"]
    assert host.plugin.call("vdi_update", **host.vdi(snapshot)) is None
    record = host.pool.vdi_by_uuid(snapshot)
    assert record.is_a_snapshot
    assert record.snapshot_of == members["vdi_ref"]
    parents = {host.pool.vdi_by_uuid(each).sm_config["vhd-parent"] for each in (disk, clone)}
    base = host.pool.vdi_by_uuid(parents.pop())
    assert not parents
    assert (base.managed, base.read_only, base.name_label) == (False, True, "base copy")

    grown = host.plugin.call("vdi_resize", str(16 * MIB), **members)
    assert grown == {"location": disk, "uuid": disk}
    assert host.pool.vdi_by_uuid(disk).virtual_size == 16 * MIB
    assert host.plugin.fault("vdi_resize", str(8 * MIB), **members).faultCode == 79
    assert host.plugin.call("vdi_resize", str(16 * MIB), **members)["uuid"] == disk

    assert host.plugin.fault("vdi_delete", vdi_uuid=base.uuid, vdi_ref=base.ref).faultCode == 80
    for each in (snapshot, clone, disk):
        assert host.plugin.call("vdi_delete", **host.vdi(each)) is None
    assert [vdi.managed for vdi in host.pool.vdis(host.sr_ref)] == [False]


def test_delete_tolerates_a_missing_image(host: Host) -> None:
    disk = host.create()["uuid"]
    members = host.vdi(disk)
    (host.location / f"{disk}.qcow2").unlink()
    assert host.plugin.call("vdi_delete", **members) is None
    assert host.plugin.fault("vdi_delete", **members).faultCode == 144


def test_attach_and_activate(host: Host) -> None:
    disk = host.create()["uuid"]
    members = host.vdi(disk)
    first = host.plugin.call("vdi_attach", "true", **members)
    assert first == host.plugin.call("vdi_attach", "true", **members)
    assert first["params"] == ""
    socket, name = first["params_nbd"].removeprefix("nbd:unix:").split(":exportname=")
    assert name == disk
    assert first["o_direct"] is True
    data = first["xenstore_data"]
    assert data["vdi-uuid"] == disk
    assert b64decode(data["scsi/0x12/0x80"]) == b"\0\x80\0\x12" + disk[:16].encode() + b"  "
    page = b64decode(data["scsi/0x12/0x83"])
    assert page == b"\0\x83\0\x31\x02\x01\0\x2dXENSRC  " + disk.encode() + b" "

    assert host.plugin.call("vdi_activate", "true", **members) is None
    assert host.plugin.call("vdi_activate", "true", **members) is None
    key = f"host_{host.plugin.members['host_ref']}"
    assert host.pool.vdi_by_uuid(disk).sm_config[key] == "RW"
    assert nbd_size(socket, name) == 8 * MIB
    assert host.plugin.fault("vdi_resize", str(9 * MIB), **members).faultCode == 24
    assert host.plugin.fault("vdi_delete", **members).faultCode == 24
    assert host.plugin.fault("sr_detach").faultCode == 16
    assert host.plugin.call("vdi_deactivate", **members) is None
    assert host.plugin.call("vdi_deactivate", **members) is None
    assert host.plugin.call("vdi_detach", **members) is None
    assert not Path(socket).exists()
    assert key not in host.pool.vdi_by_uuid(disk).sm_config


def nbd_size(socket: str, name: str) -> int:
    """The size of an export, asked of it by libnbd."""
    ended = subprocess.run(
        ["nbdinfo", "--size", f"nbd+unix:///{name}?socket={socket}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=patient(30),
    )
    return int(ended.stdout)


def test_attach_from_config_needs_no_session(host: Host) -> None:
    disk = host.create()["uuid"]
    text = host.plugin.call("vdi_generate_config", **host.vdi(disk))
    _, method = xmlrpc.client.loads(text)
    assert method == "vdi_attach_from_config"
    assert host.plugin.call("sr_detach") is None
    ended = host.plugin.raw(text)
    (reply,), _ = xmlrpc.client.loads(ended.stdout)
    socket, name = reply["params_nbd"].removeprefix("nbd:unix:").split(":exportname=")
    assert nbd_size(socket, name) == 8 * MIB
    back = host.plugin.raw(text.replace("vdi_attach_from_config", "vdi_detach_from_config"))
    assert xmlrpc.client.loads(back.stdout)[0] == (None,)
    assert not Path(socket).exists()


def test_compose(host: Host) -> None:
    lower, upper = host.create()["uuid"], host.create()["uuid"]
    lower_ref = host.vdi(lower)["vdi_ref"]
    assert host.plugin.call("vdi_compose", lower_ref, **host.vdi(upper)) is None
    assert host.pool.vdi_by_uuid(upper).sm_config["vhd-parent"] == lower
    assert not host.pool.vdi_by_uuid(lower).managed
    other = host.create(vdi_sm_config={"image-format": "vhd"})["uuid"]
    fault = host.plugin.fault("vdi_compose", host.vdi(other)["vdi_ref"], **host.vdi(upper))
    assert fault.faultCode == 66


def test_introduce_a_found_image(host: Host) -> None:
    disk = host.create()["uuid"]
    host.pool.forget_vdi(host.vdi(disk)["vdi_ref"])
    info = host.plugin.call("vdi_introduce", vdi_location=disk, new_uuid=disk, vdi_sm_config={})
    assert info == {"location": disk, "uuid": disk}
    assert host.pool.vdi_by_uuid(disk).virtual_size == 8 * MIB


def test_scan_follows_the_storage(host: Host) -> None:
    kept, lost = host.create()["uuid"], host.create()["uuid"]
    (host.location / f"{lost}.qcow2").unlink()
    host.pool.forget_vdi(host.vdi(kept)["vdi_ref"])
    assert host.plugin.call("sr_scan") is None
    away = {vdi.uuid: vdi.missing for vdi in host.pool.vdis(host.sr_ref)}
    assert away == {kept: False, lost: True}
    assert host.plugin.call("sr_update") is None
    assert host.pool.sr(host.sr_ref).virtual_allocation == 8 * MIB
    assert host.pool.sr(host.sr_ref).physical_size > 0


def test_scan_keeps_marks_and_foreign_keys(host: Host) -> None:
    disk = host.create()["uuid"]
    ref = host.vdi(disk)["vdi_ref"]
    for key in ("host_OpaqueRef:9", "paused", "key_hash", "somebody-elses"):
        host.pool.add_to_vdi_sm_config(ref, key, "v")
    host.plugin.call("sr_scan")
    kept = host.pool.vdi(ref).sm_config
    assert {"host_OpaqueRef:9", "paused", "key_hash", "somebody-elses"} <= set(kept)


def test_scan_of_vanished_storage_forgets_nothing(host: Host) -> None:
    disk = host.create()["uuid"]
    host.location.rename(host.location.with_name("elsewhere"))
    assert host.plugin.fault("sr_scan").faultCode == 47
    host.location.mkdir()
    assert host.plugin.fault("sr_scan").faultCode == 47
    assert host.pool.vdi_by_uuid(disk).uuid == disk


def test_one_bad_image_does_not_stop_a_scan(host: Host) -> None:
    good, bad = host.create()["uuid"], host.create()["uuid"]
    (host.location / f"{bad}.qcow2").write_bytes(b"QFI\xfb" + b"\xff" * 4096)
    host.plugin.call("sr_scan")
    assert {vdi.uuid for vdi in host.pool.vdis(host.sr_ref)} == {good, bad}


def test_probe(host: Host) -> None:
    assert host.plugin.call("sr_probe") == (
        f"<SRlist><SR><UUID>{host.sr_uuid}</UUID><Devlist>{host.location}</Devlist>"
        f"<size>{os.statvfs(host.location).f_blocks * os.statvfs(host.location).f_frsize}</size>"
        "</SR></SRlist>"
    )
    empty = {"location": str(host.location.with_name("none")), "SRmaster": "true"}
    assert host.plugin.call("sr_probe", device_config=empty) == "<SRlist/>"
    assert host.plugin.fault("sr_probe", device_config={}).faultCode == 94


def test_create_refuses_what_is_there(host: Host) -> None:
    other = host.site.folder / "full"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    config = {"location": str(other), "SRmaster": "true"}
    assert host.plugin.fault("sr_create", "0").faultCode == 42
    assert host.plugin.fault("sr_create", "0", device_config=config).faultCode == 42
    for location in ("relative/path", "/a/../b"):
        config = {"location": location, "SRmaster": "true"}
        assert host.plugin.fault("sr_create", "0", device_config=config).faultCode == 1


def test_delete_refuses_a_full_sr_and_tidies_an_empty_one(host: Host) -> None:
    disk = host.create()["uuid"]
    snapshot = host.plugin.call("vdi_snapshot", **host.vdi(disk))["uuid"]
    assert host.plugin.fault("sr_delete").faultCode == 39
    for each in (snapshot, disk):
        host.plugin.call("vdi_delete", **host.vdi(each))
    assert host.plugin.call("sr_delete") is None
    assert list(host.location.iterdir()) == [host.location / ".sm"]
    assert list((host.location / ".sm").iterdir()) == []
    assert host.plugin.fault("sr_scan").faultCode == 47


def test_only_the_master_changes_chains(host: Host) -> None:
    config = {**host.plugin.members["device_config"], "SRmaster": "false"}
    assert host.plugin.fault("sr_scan", device_config=config).faultCode == 58
    assert host.plugin.call("sr_attach", device_config=config) is None


def test_names_that_xml_cannot_hold(host: Host) -> None:
    from sm.errors import SmError
    from sm.smapi.request import require_xml_text

    with pytest.raises(SmError) as raised:
        require_xml_text("fine", "bad\x02")
    assert raised.value.code == 447


def test_every_advertised_feature_has_its_command(host: Host) -> None:
    from sm.commands import HANDLERS

    features = host.plugin.call("sr_get_driver_info")["capabilities"]
    commands = {feature.lower() for feature in features if feature.startswith(("SR_", "VDI_"))}
    assert commands <= set(HANDLERS)
