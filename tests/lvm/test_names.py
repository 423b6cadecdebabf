"""The names of disks in a volume group: taken to another pool, damaged, of another manager."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from lxml import etree

from sm import config
from sm.attachment import Attachments
from sm.cli.admin import Admin, open_admin
from sm.pool.base import VdiRecord
from sm.volumes.described import Catalogue, Described
from sm.volumes.lvm import opening
from sm.volumes.lvm.blocks import write_blocks
from sm.volumes.lvm.group import Group
from sm.volumes.lvm.making import ALLOCATION_TAG
from sm.volumes.lvm.name_volume import NameVolume
from sm.volumes.lvm.names import NAMES, RECORDS, group_name
from sm.volumes.lvm.sizes import Allocation
from tests.lvm.conftest import MIB
from tests.support.lvm.loop import attached
from tests.support.lvm.tools import read_direct
from tests.support.site import Site
from tests.volumes.lvm.documents import first, of_others, second


class Scene:
    """An SR on a disk of its own, with a disk and a snapshot of it, and the pool that has it."""

    def __init__(self, folder: Path, device: Path) -> None:
        self.folder, self.device = folder, device
        self.site = self._site("first")
        created = self.site.sm(
            *("sr", "create", "--type", "lvm", "--name", "nas", "--description", "in the cellar"),
            *("--device-config", f"device={device}"),
        )
        self.sr = str(created["uuid"])
        self.disk = self.site.create_vdi(self.sr, "qcow2", name="web & <co>")
        self.snapshot = self.site.snapshot(self.disk)

    def _site(self, name: str) -> Site:
        return Site(self.folder / name)

    def move(self, name: str) -> None:
        """Give the SR to another, new pool."""
        self.site.sm("sr", "detach", self.sr)
        self.site.release()
        self.site = self._site(name)
        self.site.sm("sr", "introduce", "--type", "lvm", "--device-config", f"device={self.device}")

    @contextmanager
    def admin(self) -> Iterator[Admin]:
        """The driver as the CLI uses it."""
        with mock.patch.dict(os.environ, self.site.environment):
            admin = open_admin(None, as_json=True)
            yield admin
            admin.pool.close()

    @property
    def group(self) -> Group:
        """The volume group as this pool's host sees it."""
        with mock.patch.dict(os.environ, self.site.environment):
            return opening.open_group(group_name(self.sr), [self.device], config.load())

    @property
    def volume(self) -> Path:
        """The path of the volume with the names."""
        self.group.prepare([NAMES])
        return self.group.path(NAMES)

    def records(self) -> dict[str, VdiRecord]:
        return self.site.repository(self.sr).vdis()

    def healthy(self) -> bool:
        return bool(self.site.sm("doctor")["healthy"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One SR for all tests of the file, which take it from pool to pool."""
    folder = tmp_path_factory.mktemp("names")
    with attached(folder / "disk", 512 * MIB) as disk:
        made = Scene(folder, Path(disk.device))
        yield made
        made.site.sm("sr", "detach", made.sr)


def test_another_pool_finds_the_names_and_what_is_a_snapshot_of_which(scene: Scene) -> None:
    with scene.admin() as admin:
        pool = admin.records
        pool.update_vdi(pool.vdi_by_uuid(scene.snapshot).ref, name_label="before the größte update")
        admin.call_vdi("vdi_update", scene.snapshot)
    before = scene.records()
    scene.move("second")
    after = scene.records()
    assert {each: record.name_label for each, record in after.items()} == {
        each: record.name_label for each, record in before.items()
    }
    assert after[scene.disk].name_label == "web & <co>"
    snapshot = after[scene.snapshot]
    assert snapshot.name_label == "before the größte update"
    assert snapshot.is_a_snapshot
    assert snapshot.snapshot_of == after[scene.disk].ref
    assert snapshot.snapshot_time == before[scene.snapshot].snapshot_time
    assert scene.site.sm("sr", "show", scene.sr)["description"] == "in the cellar"
    assert scene.healthy()


def test_a_reader_of_the_old_kind_understands_all_of_it(scene: Scene) -> None:
    raw = read_direct(scene.volume, 0, MIB)
    magic, length, major, minor = raw[:512].decode("ascii").split(":")
    assert (magic, int(major), int(minor)) == ("XSSM", 1, 2)
    document = etree.fromstring(b"<all>" + raw[1024 : int(length)] + b"</all>")
    assert document.findtext("name_label") == "nas"
    found = {each.findtext("uuid"): each for each in document.iterfind("vdi")}
    assert found[scene.snapshot].findtext("snapshot_of") == scene.disk
    assert found[scene.disk].findtext("name_label") == "web & <co>"
    assert {each.findtext("managed") for each in found.values()} == {"0", "1"}


def test_a_probe_tells_the_name_where_it_is_asked_for(scene: Scene) -> None:
    members = {"device_config": {"device": str(scene.device)}}
    with scene.admin() as admin:
        plain = str(admin.call_driver("sr_probe", "lvm", **members))
        sm_config = {"metadata": "true"}
        named = str(admin.call_driver("sr_probe", "lvm", sr_sm_config=sm_config, **members))
    assert "name_label" not in plain
    (found,) = etree.fromstring(named)
    assert found.findtext("UUID") == scene.sr
    assert found.findtext("name_label") == "nas"
    assert found.findtext("name_description") == "in the cellar"
    assert found.findtext("pool_metadata_detected") == "false"


@pytest.mark.parametrize("at", [0, 4096, 4 * MIB - 4096])
def test_a_damaged_volume_is_found_and_written_anew(scene: Scene, at: int) -> None:
    if at == 4096:  # so that there is a name at all
        for number in range(3):
            scene.site.create_vdi(scene.sr, "vhd", name=f"disk {number}")
    write_blocks(scene.volume, at, os.urandom(4096))
    assert '"names-differ"' in scene.site.run("--json", "doctor")[1]
    scene.site.sm("sr", "attach", scene.sr)
    scene.site.sm("sr", "scan", scene.sr)
    assert scene.healthy()
    names = {each: record.name_label for each, record in scene.records().items()}
    found = scene.site.repository(scene.sr).store.descriptions()
    assert {each: disk.name_label for each, disk in found.disks.items()} == names


def test_a_volume_that_is_gone_is_made_again(scene: Scene) -> None:
    scene.group.remove(NAMES)
    # What a crash in the middle of making it leaves.
    scene.group.create(f"new-{NAMES}", 4 * MIB)
    scene.site.sm("sr", "scan", scene.sr)
    assert f"new-{NAMES}" not in scene.group.now().volumes
    assert scene.healthy()


def test_an_existing_installation_is_taken_over_with_its_names(scene: Scene) -> None:
    raw = of_others(
        (first("wiped"), second("00000000-0000-4000-8000-000000000001")),
        (first("theirs"), second(scene.disk)),
        (first("their snapshot"), second(scene.snapshot, snapshot=1, snapshot_of=scene.disk)),
    )
    raw = raw.replace(b"<allocation>thick</allocation>", b"<allocation>thin</allocation> ")
    path = scene.volume
    write_blocks(path, 4 * MIB - 4096, bytes(4096))
    write_blocks(path, 0, raw.ljust(-(-len(raw) // 4096) * 4096))
    scene.group.remove(RECORDS)
    scene.group.change("vgchange", "--deltag", f"{ALLOCATION_TAG}thick", scene.group.name)
    scene.move("third")
    found = scene.records()
    assert found[scene.disk].name_label == "theirs"
    assert found[scene.snapshot].snapshot_of == found[scene.disk].ref
    assert scene.healthy()
    attachment = Attachments(scene.site.repository(scene.sr).settings.run / "attached")
    assert attachment.require(scene.sr).place["allocation"] == "thin"
    scene.site.delete(scene.site.snapshot(scene.disk))
    assert scene.healthy()


def test_names_that_are_lost_cost_nothing_else(scene: Scene) -> None:
    disks = {each for each, record in scene.records().items() if record.managed}
    write_blocks(scene.volume, 0, os.urandom(4096))
    scene.move("fourth")
    found = scene.records()
    assert {each for each, record in found.items() if record.managed} == disks
    assert found[scene.disk].name_label == ""
    assert scene.healthy()


def test_a_volume_that_is_full_grows(scene: Scene) -> None:
    volume, allocation = NameVolume(scene.group), Allocation.THICK
    many = {
        each: Described(each, f"disk {number}")
        for number, each in enumerate(f"00000000-0000-4000-8000-{n:012x}" for n in range(4200))
    }
    catalogue = Catalogue("nas", "", many)
    volume.write(allocation, catalogue, lambda _: False)
    assert scene.group.volume(NAMES).size == 8 * MIB
    assert volume.is_written(allocation, catalogue, lambda _: False)
    written = volume.read()
    assert written is not None
    assert {each: disk.name_label for each, disk in written[1].disks.items()} == {
        each: disk.name_label for each, disk in many.items()
    }
    scene.site.sm("sr", "scan", scene.sr)
    assert set(scene.records()) == set(scene.site.repository(scene.sr).store.descriptions().disks)
