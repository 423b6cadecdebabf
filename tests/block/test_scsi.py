"""Units and adapters, from a recorded tree of sysfs and from what is added to it here."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm.block import adapters, iscsi, scsi
from sm.errors import SmError
from tests.block import recorded


def test_units_are_called_as_udev_calls_them(tmp_path: Path) -> None:
    noted = recorded.sysfs(tmp_path)
    units = scsi.units(tmp_path)
    assert {unit.name: unit.scsi_id for unit in units} == noted["scsi_id"]
    assert [(unit.host, unit.lun) for unit in units] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [unit.size >> 20 for unit in units] == [16, 16, 64, 96]
    assert [unit.vendor for unit in units] == ["Linux", "Linux", "LIO-ORG", "LIO-ORG"]
    assert units[1].serial == "2001"
    assert units[3].device == Path("/dev/sdd")


def test_a_session_reaches_its_units_and_no_other(tmp_path: Path) -> None:
    noted = recorded.sysfs(tmp_path)
    (session,) = iscsi.sessions(tmp_path)
    assert (session.iqn, session.address, session.port, session.host) == (
        "iqn.2003-01.org.example:store",
        "127.0.0.1",
        3260,
        1,
    )
    units = iscsi.units_of(session, scsi.units(tmp_path))
    assert [unit.scsi_id for unit in units] == noted["ids"]
    assert dict(scsi.members(units[0])) == {
        "vendor": "LIO-ORG",
        "serial": units[0].serial,
        "LUNid": "0",
        "size": str(64 << 20),
        "SCSIid": noted["ids"][0],
    }


def test_a_session_that_is_not_logged_in_is_none(tmp_path: Path) -> None:
    recorded.sysfs(tmp_path)
    (tmp_path / "class/iscsi_session/session1/state").write_text("FAILED\n")
    assert iscsi.sessions(tmp_path) == []


def test_adapters_are_all_but_those_of_iscsi(tmp_path: Path) -> None:
    recorded.sysfs(tmp_path)
    (adapter,) = adapters.adapters(tmp_path)
    assert (adapter.name, adapter.driver, adapter.state) == ("host0", "scsi_debug", "running")
    reached = adapters.reached_by([adapter], scsi.units(tmp_path))
    assert [unit.name for _, unit in reached] == ["sda", "sdb"]
    members = adapters.members(*reached[1], paths=1)
    assert {name: members[name] for name in ("path", "adapter", "lun", "hba", "SCSIid")} == {
        "path": "/dev/sdb",
        "adapter": "host0",
        "lun": "1",
        "hba": "scsi_debug",
        "SCSIid": "333333330000007d1",
    }


def test_a_fibre_channel_adapter_has_a_port_name(tmp_path: Path) -> None:
    """Attributes as the kernel documents them (Documentation/ABI, scsi_transport_fc); no such
    adapter was there to be recorded."""
    for name, value in (("port_name", "0x10000090fa534cd2"), ("port_state", "Online")):
        path = tmp_path / "class/fc_host/host7" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    (tmp_path / "class/scsi_host/host7").mkdir(parents=True)
    (tmp_path / "class/scsi_host/host7/proc_name").write_text("lpfc\n")
    assert adapters.adapters(tmp_path) == [
        adapters.Adapter(7, "lpfc", "10000090fa534cd2", "Online")
    ]


def test_the_multipath_device_is_taken_where_there_is_one(tmp_path: Path) -> None:
    noted = recorded.sysfs(tmp_path)
    units, wanted = scsi.units(tmp_path), noted["ids"][1]
    assert scsi.device_of(wanted, units, tmp_path) == Path("/dev/sdd")
    holder = tmp_path / "block/sdd/holders/dm-3/dm"
    holder.mkdir(parents=True)
    (holder / "name").write_text("mpatha\n")
    (holder / "uuid").write_text("LVM-whatever\n")
    assert scsi.device_of(wanted, units, tmp_path) == Path("/dev/sdd")
    (holder / "uuid").write_text(f"mpath-{wanted}\n")
    assert scsi.device_of(wanted, units, tmp_path) == Path("/dev/mapper/mpatha")
    assert scsi.device_of("3600", units, tmp_path) is None
    assert scsi.device_of("", units, tmp_path) is None


def test_a_host_without_scsi_has_nothing(tmp_path: Path) -> None:
    assert scsi.units(tmp_path) == []
    assert adapters.adapters(tmp_path) == []
    assert iscsi.sessions(tmp_path) == []


@pytest.mark.parametrize(
    ("wwid", "expected"),
    [
        ("naa.600140512345\n", "3600140512345"),
        ("eui.0025385971b09a5c", "20025385971b09a5c"),
        ("t10.ATA     QEMU HARDDISK   QM00001 ", "1ATA_QEMU_HARDDISK_QM00001"),
        ("uuid.1234", ""),
        ("", ""),
    ],
)
def test_kinds_of_names(wwid: str, expected: str) -> None:
    assert scsi.scsi_id(wwid) == expected


@pytest.mark.parametrize("value", ["", "-x", "a b", "a/b", "../x", "x\n", "é", "a" * 300])
def test_what_is_no_scsi_id_is_refused(value: str) -> None:
    with pytest.raises(SmError) as raised:
        scsi.require_scsi_id(value)
    assert raised.value.code == 107
