"""What only the iSCSI driver has: choices, secrets, and sessions that several SRs need."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from sm.block.iscsi import sessions
from sm.block.scsi import units
from sm.drivers import iscsi as driver
from sm.drivers.iscsi import LvmOverIscsiSr
from sm.errors import ChoiceNeeded
from tests.drivers.contract.host import Host
from tests.support.patience import patient
from tests.support.servers.iscsi import IscsiServer

pytestmark = pytest.mark.world

SYSFS = Path("/sys")
SECRET = "p#ss=w0rd 'x'"


def image(folder: Path, name: str) -> Path:
    """An empty disk of 64 MiB."""
    path = folder / name
    with path.open("wb") as file:
        file.truncate(64 << 20)
    return path


@pytest.fixture
def server(iscsi_server: IscsiServer) -> Iterator[IscsiServer]:
    """The target, which lets everybody in again afterwards."""
    yield iscsi_server
    iscsi_server.allow_everybody()
    assert sessions(SYSFS) == []


def made(root: Path, **device_config: str) -> Host:
    """A host with that device_config."""
    return Host(root, LvmOverIscsiSr, {"target": "127.0.0.1", **device_config})


def choice(host: Host, code: int) -> list[ET.Element]:
    """What a probe that lacks something says there is."""
    error = host.refused("sr_probe", sr_uuid="")
    assert error.code == code
    assert isinstance(error, ChoiceNeeded)
    return list(ET.fromstring(error.document))


def test_each_missing_word_is_answered_with_a_choice(
    server: IscsiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = server.add_unit(image(tmp_path, "unit"))
    for number, more in enumerate(({}, {"targetIQN": "iqn.2003-01.org.example:nobody"})):
        (target,) = choice(made(tmp_path / f"a{number}", **more), 96)
        assert target.tag == "TGT"
        told = {each.tag: each.text for each in target}
        assert told == {
            "Index": "0",
            "IPAddress": "127.0.0.1",
            "Port": "3260",
            "TargetIQN": server.iqn,
        }
    monkeypatch.setattr(driver, "APPEAR_SECONDS", patient(1))
    for number, more in enumerate(({}, {"SCSIid": "3600140500000"})):
        offered = choice(made(tmp_path / f"b{number}", targetIQN=server.iqn, **more), 107)
        found = {each.findtext("SCSIid"): each for each in offered}
        assert found[unit].tag == "LUN"
        assert found[unit].findtext("size") == str(64 << 20)
        assert found[unit].findtext("vendor") == "LIO-ORG"
    assert sessions(SYSFS) == []


def test_secrets_are_needed_and_never_seen(server: IscsiServer, tmp_path: Path) -> None:
    unit = server.add_unit(image(tmp_path, "unit"))
    server.require_chap("me", SECRET)
    words: set[bytes] = set()
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(words, over))
    watcher.start()
    try:
        for number, more in enumerate(({}, {"chapuser": "me", "chappassword": "wrong"})):
            host = made(tmp_path / f"root{number}", targetIQN=server.iqn, SCSIid=unit, **more)
            assert host.refused("sr_probe").code == 68
        right = {"chapuser": "me", "chappassword": SECRET}
        host = made(tmp_path / "root", targetIQN=server.iqn, SCSIid=unit, **right)
        host.make()
        record = Path("/etc/iscsi/nodes", server.iqn, "127.0.0.1,3260")
        assert record.stat().st_mode & 0o777 == 0o600
        assert f"node.session.auth.password = {SECRET}\n" in record.read_text()
        assert "node.startup = manual\n" in record.read_text()
        host.call("sr_detach")
    finally:
        over.set()
        watcher.join()
    assert any(b"iscsiadm" in word for word in words)
    assert not [word for word in words if SECRET.encode() in word]
    files = [path for path in Path("/etc/iscsi").rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET in path.read_text()]
    logs = (tmp_path / "root").rglob("*.log")
    assert not [path for path in logs if SECRET in path.read_text()]


def watch(words: set[bytes], over: threading.Event) -> None:
    """Collect the command lines of all processes, as `ps` shows them to every user."""
    while not over.wait(0.005):
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words.add((entry / "cmdline").read_bytes())
            except OSError:
                continue


def test_a_session_stays_while_another_sr_needs_it(server: IscsiServer, tmp_path: Path) -> None:
    """The second unit is shown when the session is there already."""
    first_unit = server.add_unit(image(tmp_path, "first"))
    first = made(tmp_path / "root", targetIQN=server.iqn, SCSIid=first_unit)
    first.make()
    second_unit = server.add_unit(image(tmp_path, "second"))
    second_uuid = "5a9c7c0e-2a41-4b6f-9a53-6f2d1c0e9b77"
    config = {**first.device_config, "SCSIid": second_unit}
    ref = first.pool.introduce_sr(uuid=second_uuid, sr_type="lvmoiscsi")
    first.pool.create_pbd(ref, first.pool.this_host().ref, config)
    members = {
        "sr_uuid": second_uuid,
        "sr_ref": ref,
        "device_config": {**config, "SRmaster": "true"},
    }
    first.call("sr_create", "0", **members)
    first.call("sr_attach", **members)
    assert len(sessions(SYSFS)) == 1
    assert {first_unit, second_unit} <= {unit.scsi_id for unit in units(SYSFS)}
    first.call("sr_detach")
    assert len(sessions(SYSFS)) == 1
    assert second_uuid in first.call("sr_probe", **members)
    assert len(sessions(SYSFS)) == 1
    first.call("sr_detach", **members)


def test_a_portal_that_is_silent(server: IscsiServer, tmp_path: Path) -> None:
    named = {"targetIQN": server.iqn, "SCSIid": "3600"}
    assert made(tmp_path / "a", port="3261", **named).refused("sr_attach").code == 141
    assert made(tmp_path / "b", port="0", **named).refused("sr_attach").code == 142
    assert made(tmp_path / "c").refused("sr_attach", device_config={}).code == 95
