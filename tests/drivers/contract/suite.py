"""What every driver must do, told as XAPI sees it. A module with a fixture `place` runs it all.

The fixture gives a `Place`; whatever a test leaves behind on the machine is a fault of the driver.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from sm.block.mounts import TABLE, parse_table
from sm.commands import HANDLERS
from tests.datapath.clients import content as nbd_content
from tests.datapath.clients import qemu_io
from tests.drivers.contract.host import MIB, Host
from tests.drivers.contract.place import Place

NO_COMMANDS = {"sr_trim"}
"""Features of SMAPI that a host plugin has, and no command of the driver."""

HOSTILE = (
    "x\n/etc",
    "/dev/../etc/shadow",
    "--option",
    "-o",
    "/a,exec",
    "a b",
    "$(reboot)",
    "`reboot`",
    "x;reboot",
    "../..",
    "\x00",
    "\udcff",
    "a" * 5000,
    "/" + "a" * 5000,
    "é\u202e",
)


def in_use(place: Place) -> set[str]:
    """What is mounted or else in use on this machine."""
    return {str(mount) for mount in parse_table(TABLE.read_bytes())} | place.held()


@pytest.fixture
def host(place: Place, tmp_path: Path) -> Host:
    """A host with an SR that is not made yet."""
    return Host(tmp_path / "root", place.driver, place.device_config())


def found(host: Host) -> list[str]:
    """The UUIDs in the document of a probe."""
    document = ET.fromstring(host.call("sr_probe", sr_uuid=""))
    assert document.tag == "SRlist"
    return [str(each.findtext("UUID")) for each in document.findall("SR")]


def test_it_says_what_it_can_and_how_it_is_reached(place: Place) -> None:
    info = place.driver.info
    assert info.sr_type == info.sr_type.lower()
    assert info.name
    assert info.description
    commands = {name.lower() for name in info.features if name.startswith(("SR_", "VDI_"))}
    assert commands - NO_COMMANDS <= set(HANDLERS)
    keys = dict(info.configuration)
    assert set(place.device_config()) <= set(keys)
    assert all(keys.values())


def test_a_probe_finds_what_was_created_and_leaves_nothing(place: Place, host: Host) -> None:
    before = in_use(place)
    assert found(host) == []
    host.call("sr_create", "0")
    assert found(host) == [host.sr_uuid]
    assert in_use(place) == before


def test_what_is_there_is_not_created_again(place: Place, host: Host, tmp_path: Path) -> None:
    before = in_use(place)
    host.make()
    disk = host.create_vdi("qcow2")
    host.write(disk, MIB, MIB, 7)
    expected = host.content(disk)
    host.call("sr_detach")
    assert host.refused("sr_create", "0").code == 42
    if place.one_sr:
        other = Host(tmp_path / "other", place.driver, place.device_config())
        assert other.refused("sr_create", "0").code == 42
        assert other.refused("sr_attach").code == 47
    assert in_use(place) == before
    host.call("sr_attach")
    assert host.content(disk) == expected
    host.call("sr_detach")


def test_what_belongs_to_others_is_not_touched(place: Place, tmp_path: Path) -> None:
    device_config = place.foreign()
    before, content = in_use(place), place.foreign_content()
    host = Host(tmp_path / "root", place.driver, device_config)
    assert host.refused("sr_create", "0").code == 42
    assert found(host) == []
    assert (in_use(place), place.foreign_content()) == (before, content)


def test_attach_and_detach_may_be_repeated(place: Place, host: Host) -> None:
    before = in_use(place)
    host.call("sr_create", "0")
    host.call("sr_attach")
    attached = in_use(place)
    host.call("sr_attach")
    assert in_use(place) == attached
    # As after a crash before it was noted.
    host.driver.attachments.forget(host.sr_uuid)
    host.call("sr_attach")
    assert in_use(place) == attached
    host.call("sr_detach")
    assert in_use(place) == before
    host.call("sr_detach")
    assert host.refused("sr_scan").code == 47
    assert in_use(place) == before


def test_an_sr_that_is_not_there_is_not_attached(place: Place, host: Host) -> None:
    host.call("sr_create", "0")
    before = in_use(place)
    stranger = str(uuid.uuid4())
    ref = host.pool.introduce_sr(uuid=stranger, sr_type=place.driver.info.sr_type)
    error = host.refused("sr_attach", sr_uuid=stranger, sr_ref=ref)
    assert error.code in (47, 73)
    assert in_use(place) == before


def test_a_disk_lives(place: Place, host: Host) -> None:
    host.make()
    for image_format in place.formats:
        disk = host.create_vdi(image_format)
        host.write(disk, MIB, MIB, 1)
        first = bytes(MIB) + b"\x01" * MIB + bytes(6 * MIB)
        if image_format != "raw":
            snapshot = host.vdi("vdi_snapshot", disk)["uuid"]
            host.write(disk, 3 * MIB, MIB, 2)
            second = first[: 3 * MIB] + b"\x02" * MIB + first[4 * MIB :]
            clone = host.vdi("vdi_clone", snapshot)["uuid"]
            host.write(clone, 0, MIB, 3)
            contents = [host.content(each) for each in (disk, snapshot, clone)]
            assert contents == [second, first, b"\x03" * MIB + first[MIB:]]
            for each in (clone, snapshot):
                host.vdi("vdi_delete", each)
            first = second
        host.vdi("vdi_resize", disk, str(12 * MIB))
        host.call("sr_detach")
        host.call("sr_attach")
        assert host.content(disk) == first + bytes(4 * MIB)
        host.vdi("vdi_delete", disk)
        assert [vdi.uuid for vdi in host.pool.vdis(host.sr_ref) if vdi.managed] == []
    host.call("sr_update")
    assert host.pool.sr(host.sr_ref).physical_size > 0
    host.call("sr_delete")


def test_a_guest_uses_a_disk(place: Place, host: Host) -> None:
    host.make()
    disk = host.create_vdi("qcow2")
    params = host.vdi("vdi_attach", disk, "true")["params_nbd"]
    host.vdi("vdi_activate", disk, "true")
    try:
        socket, name = params.removeprefix("nbd:unix:").split(":exportname=")
        uri = f"nbd+unix:///{name}?socket={socket}"
        qemu_io(uri, f"write -P 5 {MIB} {MIB}", "flush")
        expected = bytes(MIB) + b"\x05" * MIB + bytes(6 * MIB)
        assert nbd_content(uri, 8 * MIB) == expected
        assert host.refused("sr_detach").code == 16
    finally:
        host.vdi("vdi_deactivate", disk)
    assert host.content(disk) == expected
    host.call("sr_detach")


def test_another_pool_takes_it_over(place: Place, host: Host, tmp_path: Path) -> None:
    before = in_use(place)
    host.make()
    disk = host.create_vdi("vhd")
    host.write(disk, 2 * MIB, MIB, 9)
    expected = host.content(disk)
    host.call("sr_detach")
    other = Host(tmp_path / "other", place.driver, place.device_config(), host.sr_uuid)
    other.call("sr_attach")
    assert [vdi.uuid for vdi in other.pool.vdis(other.sr_ref)] == [disk]
    assert other.content(disk) == expected
    other.call("sr_detach")
    assert in_use(place) == before


def test_a_place_can_be_used_again(place: Place, host: Host, tmp_path: Path) -> None:
    before = in_use(place)
    host.make()
    disk = host.create_vdi("qcow2")
    assert host.refused("sr_delete").code == 39
    host.vdi("vdi_delete", disk)
    host.call("sr_delete")
    assert in_use(place) == before
    assert host.refused("sr_scan").code == 47
    other = Host(tmp_path / "other", place.driver, place.device_config())
    assert found(other) == []
    other.make()
    assert [vdi.uuid for vdi in other.pool.vdis(other.sr_ref)] == []
    other.call("sr_detach")


def test_hostile_values_are_refused(place: Place, tmp_path: Path) -> None:
    good = place.device_config()
    host = Host(tmp_path / "root", place.driver, good)
    before = in_use(place)
    hostile = [{**good, key: value} for key in good for value in HOSTILE if value not in place.fine]
    incomplete = [{**good, key: ""} for key in good if key not in place.optional]
    for config in hostile + incomplete:
        for command in ("sr_probe", "sr_create", "sr_attach"):
            arguments = ["0"] if command == "sr_create" else []
            host.refused(command, *arguments, device_config={**config, "SRmaster": "true"})
    assert in_use(place) == before
    assert host.driver.attachments.all() == []
