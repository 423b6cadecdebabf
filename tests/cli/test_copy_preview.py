"""`sm vdi snapshot --dry-run`: what it says comes true, and it refuses what would be refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm import keys
from sm.cowutil.base import CowUtil
from sm.volumes.base import Space
from sm.volumes.directory import DirectoryStore
from tests.hosts.hosts import Host
from tests.support import guest
from tests.support.site import MIB, Refused, Site

SLACK = 64 << 10
"""How far an image may be from what is told, beside a block of the file system."""


def _used(site: Site, sr: str) -> int:
    return sum(volume.used for volume in site.repository(sr).store.listing().volumes)


def _state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("command", ["snapshot", "clone"])
@pytest.mark.parametrize("size", [8 * MIB, 200 << 30])
def test_what_it_says_comes_true(site: Site, cow_format: str, command: str, size: int) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, cow_format, size)
    for images in (2, 1):  # the second copy shares the base of the first: nothing is written since
        before, records = _state(site.folder / "store"), site.sm("vdi", "list", "--all")
        said = site.sm("vdi", command, disk, "--dry-run")
        assert _state(site.folder / "store") == before
        assert site.sm("vdi", "list", "--all") == records
        used = _used(site, sr)
        site.sm("vdi", command, disk)
        assert abs(_used(site, sr) - used - said["bytes"]) <= images * SLACK
        assert said["depth"] == site.sm("vdi", "show", disk)["depth"]
        assert said["limit"] == 30
    _, text = site.run("vdi", command, disk, "--dry-run")
    assert text.startswith("would take ")
    assert "its chain would have 2 images, the limit is 30" in text


def test_of_a_disk_in_use(site: Site, cow_format: str) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, cow_format)
    site.snapshot(disk)
    site.activate(disk)
    said = site.sm("vdi", "snapshot", disk, "--dry-run")
    site.snapshot(disk)
    assert said["depth"] == site.sm("vdi", "show", disk)["depth"] == 3


def _refusals(site: Site, disk: str) -> list[tuple[str, str]]:
    """How the preview and the command are refused."""
    found = []
    for more in (("--dry-run",), ()):
        with pytest.raises(Refused) as refused:
            site.sm("vdi", "snapshot", disk, *more)
        found.append((refused.value.error["name"], refused.value.error["detail"]))
    return found


def test_refused_alike(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    sr = site.create_sr()
    raw, disk = site.create_vdi(sr, "raw"), site.create_vdi(sr, "qcow2")
    preview, real = _refusals(site, raw)
    assert preview == real
    assert preview[0] == "Unimplemented"

    guest.write(site.chain(sr, disk), 0, MIB, 7)
    site.snapshot(disk)
    guest.write(site.chain(sr, disk), 0, MIB, 7)
    base = site.sm("vdi", "show", disk)["parent"]
    preview, real = _refusals(site, base)
    assert preview == real
    assert preview[0] == "VDIUnavailable"

    monkeypatch.setattr(CowUtil, "max_chain_length", 2)
    preview, real = _refusals(site, disk)
    assert preview == real
    assert preview[0] == "SnapshotChainTooLong"
    monkeypatch.undo()

    monkeypatch.setattr(DirectoryStore, "space", lambda _: Space(MIB, MIB - 4096, 4096))
    preview, real = _refusals(site, disk)
    assert preview[0] == real[0] == "SRNoSpace"  # how much is free changes by itself
    monkeypatch.undo()

    path = Path(site.sm("vdi", "show", disk)["path"])
    path.write_bytes(b"rubbish" * 1000)
    preview, real = _refusals(site, disk)
    assert preview == real
    assert preview[0] == "VDIUnavailable"

    site.sm("sr", "detach", sr)
    preview, real = _refusals(site, disk)
    assert preview == real
    assert preview[0] == "SRUnavailable"


def test_where_another_host_is_the_master(tmp_path: Path) -> None:
    database = tmp_path / "pool.db"
    first, second = (Host(tmp_path, name, database) for name in ("alpha", "beta"))
    location = ("--device-config", f"location={tmp_path / 'images'}")
    sr = str(first.sm("sr", "create", "--name", "shared", "--shared", *location)["uuid"])
    second.sm("sr", "attach", sr)
    disk = first.create_vdi(sr, "qcow2")
    preview, real = _refusals(second, disk)
    assert preview[0] == real[0] == "LVMMaster"
    key = keys.host_key(second.ref)
    pool = first.repository(sr).pool
    pool.add_to_vdi_sm_config(pool.vdi_by_uuid(disk).ref, key, "RW")
    preview, real = _refusals(first, disk)
    assert preview[0] == real[0] == "HostUnreachable"


def test_a_merge_under_way_is_no_hindrance(site: Site) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2")
    guest.write(site.chain(sr, disk), 0, MIB, 7)
    site.delete(site.snapshot(disk))
    base = site.sm("vdi", "show", disk)["parent"]
    repository = site.repository(sr)
    entry = repository.journal.open(
        "leaf-coalesce", disk, "copy", format="qcow2", into=base, images=[base]
    )
    assert disk in repository.held()
    assert site.sm("vdi", "snapshot", disk, "--dry-run")["depth"] == 2
    repository.journal.close(entry)
