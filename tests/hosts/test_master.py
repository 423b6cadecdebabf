"""A shared SR has one master: what other hosts may do, and what only it may do. `sm host`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm import keys
from sm.owner import Owner
from tests.datapath.clients import content, qemu_io
from tests.hosts.hosts import Host, Pool
from tests.support.patience import patient
from tests.support.site import MIB, Refused


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host, str]]:
    """Two hosts without services, and an SR that both have; the first is its master."""
    database = tmp_path / "pool.db"
    first, second = (Host(tmp_path, name, database) for name in ("alpha", "beta"))
    location = ("--device-config", f"location={tmp_path / 'images'}")
    sr = str(first.sm("sr", "create", "--name", "shared", "--shared", *location)["uuid"])
    second.sm("sr", "attach", sr)
    yield first, second, sr
    for host in (first, second):
        if host.service is not None:
            host.kill()


def test_the_second_host_reaches_the_sr_as_its_master_does(hosts: tuple[Host, Host, str]) -> None:
    first, second, sr = hosts
    for host in (first, second):
        shown = host.sm("sr", "show", sr)
        assert (shown["shared"], shown["master"], shown["attached"]) == (True, "alpha", True)
        assert shown["device_config"] == first.sm("sr", "show", sr)["device_config"]
    with first.pool() as pool:
        record = pool.sr_by_uuid(sr)
        assert [pbd.currently_attached for pbd in pool.pbds(record.ref)] == [True, True]
    second.sm("sr", "detach", sr)
    second.sm("sr", "attach", sr)


def test_only_the_master_changes_chains(hosts: tuple[Host, Host, str], tmp_path: Path) -> None:
    first, second, sr = hosts
    disk = first.create_vdi(sr, "qcow2")
    snapshot = first.snapshot(disk)
    images = first.images(sr)
    for refused in (
        ("vdi", "create", "--sr", sr, "--size", "8MiB"),
        ("vdi", "snapshot", disk),
        ("vdi", "clone", disk),
        ("vdi", "resize", disk, "--size", "16MiB"),
        ("vdi", "delete", snapshot),
        ("sr", "scan", sr),
        ("gc", "run", "--sr", sr),
    ):
        with pytest.raises(Refused) as raised:
            second.sm(*refused)
        assert raised.value.error["name"] == "LVMMaster", refused
        assert "on the master" in raised.value.error["advice"]
    for how in ("--once", "--recover"):
        ended = second.process("-m", "sm.gc.daemon", "--sr", sr, how, timeout=patient(60))
        assert (ended.returncode, "SR master" in ended.stderr) == (1, True)
    for host in hosts[:2]:
        with pytest.raises(Refused, match=r"another host has it attached|SR master"):
            host.sm("sr", "destroy", sr)
    assert first.images(sr) == images
    first.delete(snapshot)
    first.collect(sr)
    assert first.images(sr) == {disk}


def test_every_host_uses_disks(hosts: tuple[Host, Host, str]) -> None:
    first, second, sr = hosts
    disk = first.create_vdi(sr, "vhd")
    uri = second.activate(disk)
    qemu_io(uri, f"write -P 5 0 {MIB}")
    second.deactivate(disk)
    uri = first.activate(disk)
    assert content(uri, 8 * MIB) == bytes([5]) * MIB + bytes(7 * MIB)
    first.deactivate(disk)
    assert second.sm("gc", "status", "--sr", sr)[0]["planned"] == []


def test_an_sr_that_is_not_shared_is_its_hosts_alone(tmp_path: Path) -> None:
    database = tmp_path / "pool.db"
    first, second = (Host(tmp_path, name, database) for name in ("alpha", "beta"))
    sr = first.create_sr()
    with pytest.raises(Refused, match="not shared"):
        second.sm("sr", "attach", sr)
    with second.pool() as pool:
        assert len(pool.pbds(pool.sr_by_uuid(sr).ref)) == 1


def test_an_attach_that_fails_leaves_no_pbd(hosts: tuple[Host, Host, str], tmp_path: Path) -> None:
    first, _, sr = hosts
    third = Host(tmp_path, "gamma", tmp_path / "pool.db")
    with pytest.raises(Refused, match="is not a folder"):
        third.sm("sr", "attach", sr, "--device-config", f"location={tmp_path / 'nowhere'}")
    with first.pool() as pool:
        assert len(pool.pbds(pool.sr_by_uuid(sr).ref)) == 2
    third.sm("sr", "attach", sr, "--device-config", f"location={tmp_path / 'images'}")
    with pytest.raises(Refused, match="another device-config"):
        third.sm("sr", "attach", sr, "--device-config", "location=/elsewhere")


def test_what_the_master_has_under_way_is_left_alone(hosts: tuple[Host, Host, str]) -> None:
    """A command on another host must not finish the copy that the master is making."""
    first, second, sr = hosts
    disk = first.create_vdi(sr, "qcow2")
    repository = first.repository(sr)
    images = ["8a3f5a5e-3e0c-4c0e-8f2d-000000000001", "8a3f5a5e-3e0c-4c0e-8f2d-000000000002"]
    repository.journal.open(
        *("snapshot", disk, "displace"),
        format="qcow2",
        base=images[0],
        copy=images[1],
        images=images,
    )
    second.activate(disk)
    second.deactivate(disk)
    assert [entry.key for entry in repository.journal.entries()] == [disk]
    first.sm("sr", "scan", sr)  # where nobody can be at work, the lock being held
    assert repository.journal.entries() == []


def test_a_lost_master_is_replaced_by_a_host_with_its_uuid(
    hosts: tuple[Host, Host, str], tmp_path: Path
) -> None:
    """What the lost one used and had under way is cleared up when the new one attaches."""
    first, second, sr = hosts
    disk = first.create_vdi(sr, "qcow2")
    first.delete(first.snapshot(disk))
    repository = first.repository(sr)
    repository.pool.add_to_vdi_sm_config(repository.vdi(disk).ref, f"host_{first.ref}", "RW")
    gone = Owner(first.uuid, "another boot", 1, 1, "coalesce").text
    repository.journal.open("coalesce", disk, "copy", format="qcow2", into=disk, images=[disk])
    (record,) = (tmp_path / "images" / ".sm").glob("journal-*")
    record.write_text(json.dumps({**json.loads(record.read_text()), "owner": gone}))

    heir = Host(tmp_path, "heir", tmp_path / "pool.db", host_uuid=first.uuid)
    heir.sm("sr", "attach", sr)
    assert heir.sm("vdi", "show", disk)["active"] == []
    assert repository.journal.entries() == []
    second.activate(disk)
    second.deactivate(disk)
    heir.collect(sr)
    assert heir.images(sr) == {disk}


def test_a_change_that_a_crash_interrupted_can_be_repeated(hosts: tuple[Host, Host, str]) -> None:
    first, second, sr = hosts
    disk = first.create_vdi(sr, "qcow2")
    repository = first.repository(sr)
    key = f"{keys.CHANGE_PREFIX}{disk}"

    def claim(host: Host) -> str:
        owner = Owner(host.uuid, "another boot", 1, 1, "vdi_resize").text
        return json.dumps({"id": "x", "images": [disk], "owner": owner})

    repository.pool.add_to_sr_sm_config(repository.record.ref, key, claim(first))
    first.sm("vdi", "resize", disk, "--size", "16MiB")
    assert key not in first.sm("sr", "show", sr)["sm_config"]

    # What another host claims is that host's to take back.
    repository.pool.add_to_sr_sm_config(repository.record.ref, key, claim(second))
    with pytest.raises(Refused, match="is being changed by another host"):
        first.sm("vdi", "resize", disk, "--size", "24MiB")


def test_hosts_are_added_listed_and_removed(hosts: tuple[Host, Host, str]) -> None:
    first, second, sr = hosts
    uuid = first.sm("host", "add", "gamma", "--address", "unix:/nowhere/at/all")["uuid"]
    listed = {row["name"]: row for row in first.sm("host", "list")}
    assert set(listed) == {"alpha", "beta", "gamma"}
    assert listed["gamma"]["uuid"] == uuid
    assert [row["answers"] for row in listed.values()] == [False, False, False]
    assert "no address" in listed["beta"]["problem"]
    assert "/nowhere/at/all" in listed["gamma"]["problem"]
    second.start()
    assert [row["name"] for row in first.sm("host", "list") if row["answers"]] == ["beta"]
    code, text = first.run("host", "list")
    assert (code, "unix:/nowhere/at/all" in text) == (0, True)
    for wrong in (("--address", "nowhere"), ("--uuid", "x"), ("--uuid", uuid)):
        with pytest.raises(Refused):
            first.sm("host", "add", "delta", *wrong)

    with pytest.raises(Refused, match="cannot remove itself"):
        first.sm("host", "remove", "alpha")
    with pytest.raises(Refused, match="still named by PBD"):
        first.sm("host", "remove", "beta")
    first.sm("sr", "detach", sr)
    with pytest.raises(Refused, match="still named by SR") as raised:
        second.sm("host", "remove", "alpha")
    assert raised.value.error["name"] == "SRInUse"
    second.sm("sr", "detach", sr)
    first.sm("host", "remove", "gamma")
    second.kill()
    first.sm("host", "remove", "beta")
    assert [row["name"] for row in first.sm("host", "list")] == ["alpha"]
    with first.pool() as pool:
        assert [pbd.host for pbd in pool.pbds(pool.sr_by_uuid(sr).ref)] == [first.ref]


def test_a_host_that_has_a_disk_active_is_not_removed(pool: Pool) -> None:
    disk = pool.master.create_vdi(pool.sr, "qcow2")
    pool.third.activate(disk)
    with pytest.raises(Refused, match="active on that host"):
        pool.master.sm("host", "remove", "gamma")
    with pytest.raises(Refused, match="active on this host"):
        pool.third.sm("sr", "detach", pool.sr)
