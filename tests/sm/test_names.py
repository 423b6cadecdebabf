"""Names of disks, taken to another pool by the storage; and what becomes of them when it fails."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sm import catalogue
from sm.cli.admin import open_admin
from sm.errors import SmError
from sm.pool.base import NULL_REF, VdiRecord
from sm.volumes.described import Catalogue, Described
from tests.support.site import Site

FILE = Path(".sm") / "catalogue.json"


@pytest.fixture
def sr(site: Site) -> str:
    """A File SR."""
    return site.create_sr()


def update(site: Site, sr: str, vdi: str, **fields: Any) -> None:
    """Change a record as XAPI does, which then tells the driver."""
    pool = site.repository(sr).pool
    pool.update_vdi(pool.vdi_by_uuid(vdi).ref, **fields)
    request(site, sr, "vdi_update", vdi)


def request(site: Site, sr: str, command: str, vdi: str | None = None) -> None:
    """Send a command to the driver as the CLI does."""
    with mock.patch.dict(os.environ, site.environment):
        admin = open_admin(None, as_json=True)
        if vdi is None:
            admin.call(command, admin.find_sr(sr))
        else:
            admin.call_vdi(command, vdi)
        admin.pool.close()


def test_an_sr_that_is_given_no_name_has_the_one_it_had(site: Site, sr: str) -> None:
    other = elsewhere(site, sr)
    assert other.sm("sr", "show", sr)["name"] == "store"
    location = f"location={site.folder / 'store'}"
    third = Site(site.folder / "third")
    third.sm("sr", "introduce", "--device-config", location, "--name", "new")
    assert third.sm("sr", "show", sr)["name"] == "new"


def elsewhere(site: Site, sr: str, name: str = "other") -> Site:
    """Another pool, which takes the SR over; this one is lost."""
    site.release()
    other = Site(site.folder / name)
    location = site.folder / "store"
    other.sm("sr", "introduce", "--uuid", sr, "--device-config", f"location={location}")
    return other


def known(site: Site, sr: str) -> dict[str, VdiRecord]:
    """The records of an SR."""
    return site.repository(sr).vdis()


def names(site: Site, sr: str) -> dict[str, Any]:
    """What a pool says of each disk that means something to another."""
    records = known(site, sr)
    uuids = {record.ref: uuid for uuid, record in records.items()}
    return {
        uuid: (
            record.name_label,
            record.name_description,
            record.type,
            record.read_only,
            record.managed,
            record.is_a_snapshot,
            uuids.get(record.snapshot_of),
            record.snapshot_time,
            record.metadata_of_pool,
        )
        for uuid, record in records.items()
    }


def remembered(site: Site) -> dict[str, Any]:
    """What the storage says of each disk."""
    document = json.loads((site.folder / "store" / FILE).read_text())
    return {disk["uuid"]: disk for disk in document["disks"]}


def test_another_pool_finds_the_names_and_what_is_a_snapshot_of_which(site: Site, sr: str) -> None:
    disk = site.create_vdi(sr, "qcow2", name="web & <co>")
    update(site, sr, disk, name_description="größer\nals vorher")
    snapshot = site.snapshot(disk)
    update(site, sr, snapshot, name_label="before the update", read_only=True)
    site.sm("vdi", "clone", snapshot, "--name", "copy")
    site.create_vdi(sr, "raw", name="swap")
    expected = names(site, sr)
    assert [each[6] for each in expected.values() if each[5]] == [disk]
    assert {"web & <co>", "before the update", "copy", "swap", "base copy"} == {
        each[0] for each in expected.values()
    }
    other = elsewhere(site, sr)
    assert names(other, sr) == expected
    assert other.sm("doctor")["healthy"]


def test_the_pool_is_the_truth_where_it_has_a_record(site: Site, sr: str) -> None:
    disk = site.create_vdi(sr, "qcow2", name="web")
    file = site.folder / "store" / FILE
    file.write_text(file.read_text().replace("web", "not this"))
    site.sm("sr", "scan", sr)
    assert known(site, sr)[disk].name_label == "web"
    assert remembered(site)[disk]["name_label"] == "web"


def test_each_change_is_remembered(site: Site, sr: str) -> None:
    disk, other = site.create_vdi(sr, "qcow2", name="a"), site.create_vdi(sr, "qcow2", name="b")
    assert {each["name_label"] for each in remembered(site).values()} == {"a", "b"}
    assert remembered(site)[disk]["vdi_type"] == "qcow2"
    snapshot = site.snapshot(disk)
    found = remembered(site)
    assert found[snapshot]["snapshot_of"] == disk
    assert [each["managed"] for each in found.values()].count(False) == 1
    site.delete(snapshot)
    assert snapshot not in remembered(site)
    site.sm("gc", "run", "--sr", sr)
    assert set(remembered(site)) == {disk, other}
    pool = site.repository(sr).pool
    pool.rename_sr(pool.sr_by_uuid(sr).ref, name_label="nas", name_description="in the cellar")  # type: ignore[attr-defined]
    request(site, sr, "sr_update")
    document = json.loads((site.folder / "store" / FILE).read_text())
    assert (document["name_label"], document["name_description"]) == ("nas", "in the cellar")


def test_nothing_is_written_where_nothing_changed(site: Site, sr: str) -> None:
    disk = site.create_vdi(sr, "qcow2", name="a")
    before = (site.folder / "store" / FILE).stat()
    site.sm("sr", "scan", sr)
    request(site, sr, "vdi_update", disk)
    after = (site.folder / "store" / FILE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_failure_to_write_fails_no_command_and_is_made_up_for(site: Site, sr: str) -> None:
    file = site.folder / "store" / FILE
    file.unlink()
    (file / "in the way").mkdir(parents=True)
    disk = site.create_vdi(sr, "qcow2", name="a")
    assert "are not written" in (site.root / "log" / "sm.log").read_text()
    (finding,) = json.loads(site.run("--json", "doctor")[1])["findings"]
    assert finding["code"] == "names-differ"
    shutil.rmtree(file)
    other = site.create_vdi(sr, "qcow2", name="b")
    assert {each: found["name_label"] for each, found in remembered(site).items()} == {
        disk: "a",
        other: "b",
    }


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"[" * 100_000, b"\xff", b"null", b'{"disks":[1,{"uuid":2},{}]}']
)
def test_a_damaged_file_costs_names_and_nothing_else(site: Site, sr: str, content: bytes) -> None:
    disk = site.create_vdi(sr, "qcow2", name="a")
    (site.folder / "store" / FILE).write_bytes(content)
    other = elsewhere(site, sr)
    assert known(other, sr)[disk].name_label == ""
    assert set(remembered(site)) == {disk}


def test_a_file_of_a_later_version_is_left_alone(site: Site, sr: str) -> None:
    file = site.folder / "store" / FILE
    file.write_text('{"version": 2, "disks": {}}')
    site.create_vdi(sr, "qcow2", name="a")
    assert file.read_text() == '{"version": 2, "disks": {}}'


def test_what_a_storage_says_is_made_fit_for_a_pool(site: Site, sr: str) -> None:
    disk = site.create_vdi(sr, "qcow2", name="a")
    file = site.folder / "store" / FILE
    document = json.loads(file.read_text())
    document["disks"][0] |= {
        "name_label": "bell \x07 \ud800 " + "x" * 10_000,
        "type": "throne",
        "snapshot_time": "yesterday",
        "snapshot_of": disk,
        "is_a_snapshot": True,
        "colour": "red",
    }
    file.write_text(json.dumps(document))
    other = elsewhere(site, sr)
    record = known(other, sr)[disk]
    assert record.name_label.startswith("bell ? ? xxx")
    assert len(record.name_label) == catalogue.MOST_CHARACTERS
    assert (record.type, record.snapshot_time, record.snapshot_of) == ("user", "", NULL_REF)


def test_an_image_that_cannot_be_read_keeps_its_name(site: Site, sr: str) -> None:
    disk = site.create_vdi(sr, "qcow2", name="a")
    image = site.folder / "store" / f"{disk}.qcow2"
    content = image.read_bytes()
    image.write_bytes(bytes(len(content)))
    other = elsewhere(site, sr)
    assert known(other, sr) == {}
    other.create_vdi(sr, "qcow2", name="b")
    image.write_bytes(content)
    other.sm("sr", "scan", sr)
    assert known(other, sr)[disk].name_label == "a"


def test_a_destroyed_sr_leaves_nothing_behind(site: Site, sr: str) -> None:
    site.delete(site.create_vdi(sr, "raw", name="a"))
    assert (site.folder / "store" / FILE).exists()
    site.sm("sr", "destroy", sr)
    assert [path for path in (site.folder / "store").rglob("*") if path.is_file()] == []


def test_originals_come_first() -> None:
    def known_as(**of: str) -> dict[str, Described]:
        return {each: Described(each, snapshot_of=original) for each, original in of.items()}

    order = catalogue.originals_first
    assert order("abc", known_as(a="b", b="c")) == ["c", "b", "a"]
    assert order("ab", known_as(a="x")) == ["a", "b"]
    assert order("a", known_as(a="a")) == ["a"]
    assert sorted(order("abc", known_as(a="b", b="c", c="a"))) == ["a", "b", "c"]
    many = {str(each): Described(str(each), snapshot_of=str(each + 1)) for each in range(20_000)}
    assert order(many, many)[-1] == "0"


def test_a_storage_that_cannot_tell_is_like_one_that_knows_nothing(site: Site, sr: str) -> None:
    repository = site.repository(sr)
    shutil.rmtree(site.folder / "store")
    assert catalogue.recall(repository) == Catalogue()
    catalogue.remember(repository)
    with pytest.raises(SmError):
        catalogue.is_remembered(replace(repository))
