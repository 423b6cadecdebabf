"""What only the NFS driver has: versions, what a server offers, and servers that do not serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from sm.block.mounts import mounted_at
from sm.drivers.nfs import NfsSr
from sm.errors import ChoiceNeeded
from tests.drivers.contract.host import MIB, Host
from tests.support.lvm.tools import call
from tests.support.servers.nfs import ROOT, NfsServer

pytestmark = pytest.mark.world


@pytest.fixture
def export(nfs_server: NfsServer, tmp_path: Path) -> Iterator[Path]:
    """A new folder of the export; the server serves again afterwards, whatever a test did."""
    folder = ROOT / tmp_path.name
    folder.mkdir()
    yield folder
    nfs_server.restore()


def made(tmp_path: Path, version: str, **more: str) -> Host:
    """A host that reaches the folder of a test by one version of the protocol."""
    path = NfsServer.path(tmp_path.name, version)
    config = {"server": "127.0.0.1", "serverpath": path, "nfsversion": version, **more}
    return Host(tmp_path / f"root-{version}", NfsSr, config)


def test_two_versions_share_an_sr(export: Path, tmp_path: Path) -> None:
    """One host mounts with the default, another with a newer version: the images are the same."""
    old = made(tmp_path, "3", options="nolock")
    old.make()
    mount = mounted_at(old.settings.mounts / old.sr_uuid)
    assert mount is not None
    assert mount.source == f"127.0.0.1:{export}/{old.sr_uuid}"
    options = Path("/proc/mounts").read_text().split(mount.source)[1].split("\n")[0]
    for expected in ("vers=3", "soft", "acdirmin=0", "acdirmax=0", "proto=tcp", "retrans=4"):
        assert expected in options
    assert (old.settings.mounts / old.sr_uuid).stat().st_mode & 0o777 == 0o700
    disk = old.create_vdi("vhd")
    old.write(disk, MIB, MIB, 4)
    config = {**old.device_config, "serverpath": f"/{export.name}", "nfsversion": "4.1"}
    config.pop("options")
    new = Host(tmp_path / "new", NfsSr, config, old.sr_uuid)
    new.call("sr_attach")
    assert new.content(disk) == bytes(MIB) + b"\x04" * MIB + bytes(6 * MIB)
    new.call("sr_detach")
    old.call("sr_detach")


def test_nosubdir_takes_the_export_itself(export: Path, tmp_path: Path) -> None:
    config = {"server": "127.0.0.1", "serverpath": f"/{export.name}", "nfsversion": "4.2"}
    host = Host(tmp_path / "root", NfsSr, config, sm_config={"nosubdir": "true"})
    host.make()
    disk = host.create_vdi("qcow2")
    assert (export / f"{disk}.qcow2").is_file()
    assert host.call("sr_probe", sr_uuid="").count(host.sr_uuid) == 1
    host.vdi("vdi_delete", disk)
    host.call("sr_delete")
    assert export.is_dir()


def test_what_a_server_offers_is_told_where_the_path_is_missing(
    export: Path, tmp_path: Path
) -> None:
    host = made(tmp_path, "4.2")
    error = host.refused("sr_probe", device_config={"server": "127.0.0.1"})
    assert error.code == 101
    assert isinstance(error, ChoiceNeeded)
    (offered,) = ET.fromstring(error.document).findall("Export")
    assert [offered.findtext(key) for key in ("Target", "Path", "Accesslist")] == [
        "127.0.0.1",
        str(ROOT),
        "*",
    ]


def test_supported_versions_are_told_where_they_are_asked_for(
    export: Path, nfs_server: NfsServer, tmp_path: Path
) -> None:
    host = made(tmp_path, "4.2", probeversion="yes")
    document = ET.fromstring(host.call("sr_probe", sr_uuid=""))
    assert [each.text for each in document.findall("SupportedVersions/Version")] == ["3", "4"]
    nfs_server.stop()
    nfs_server.start("--no-nfs-version", "3")
    document = ET.fromstring(host.call("sr_probe", sr_uuid=""))
    assert [each.text for each in document.findall("SupportedVersions/Version")] == ["4"]
    assert made(tmp_path, "3").refused("sr_create", "0").code == 72


def test_a_server_that_does_not_serve(export: Path, nfs_server: NfsServer, tmp_path: Path) -> None:
    host = made(tmp_path, "4.2")
    nfs_server.stop()
    for command, arguments in (("sr_probe", []), ("sr_create", ["0"]), ("sr_attach", [])):
        error = host.refused(command, *arguments)
        assert (error.code, "127.0.0.1 port 2049" in error.detail) == (108, True)
    unknown = {**host.device_config, "server": "no-such-host.invalid"}
    assert host.refused("sr_probe", device_config=unknown).code == 140


def test_a_path_that_is_not_exported(export: Path, tmp_path: Path) -> None:
    host = made(tmp_path, "4.2")
    elsewhere = {**host.device_config, "serverpath": "/not/there", "SRmaster": "true"}
    assert host.refused("sr_attach", device_config=elsewhere).code == 73
    assert not [each for each in host.settings.mounts.glob("*") if mounted_at(each)]


def test_an_export_that_cannot_be_written(
    export: Path, nfs_server: NfsServer, tmp_path: Path
) -> None:
    host = made(tmp_path, "4.2")
    host.call("sr_create", "0")
    nfs_server.export("ro")
    assert host.refused("sr_attach").code == 461
    assert mounted_at(host.settings.mounts / host.sr_uuid) is None
    other = made(tmp_path, "3", options="nolock")
    assert other.refused("sr_create", "0").code == 461
    # Who only reads may attach it.
    host.call("sr_attach", device_config={**host.device_config, "SRmaster": "false"})
    host.call("sr_detach")


def test_a_mount_in_use_stays_attached(export: Path, tmp_path: Path) -> None:
    host = made(tmp_path, "4.2")
    host.make()
    folder = host.settings.mounts / host.sr_uuid
    with (folder / "somebody's").open("w") as file:
        file.write("open")
        error = host.refused("sr_detach")
        assert (error.code, "fuser" in error.detail) == (16, True)
        assert mounted_at(folder) is not None
        host.call("sr_scan")
    host.call("sr_detach")
    assert mounted_at(folder) is None
    assert not folder.exists()


def test_an_unmount_by_others_is_noticed(export: Path, tmp_path: Path) -> None:
    host = made(tmp_path, "4.2")
    host.make()
    disk = host.create_vdi("qcow2")
    call("umount", host.settings.mounts / host.sr_uuid)
    assert host.refused("sr_scan").code == 47
    assert host.pool.vdi_by_uuid(disk).uuid == disk
