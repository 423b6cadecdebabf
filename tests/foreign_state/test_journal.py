"""A record of the journal that is none holds the tree of its key, and nothing else."""

from __future__ import annotations

import json
import os
import shlex
import uuid

import pytest

from tests.foreign_state.damage import DAMAGES, codes, everything_works
from tests.support import guest
from tests.support.site import MIB, Refused, Site

pytestmark = pytest.mark.one_in(5)

NOBODY = "8a3f5a5e-3e0c-4c0e-8f2d-000000000009"


class Scene:
    """Two disks, one of which has a snapshot that was deleted: work for the collector."""

    def __init__(self, site: Site) -> None:
        self.site, self.sr = site, site.create_sr()
        self.other = site.create_vdi(self.sr, "qcow2", name="other")
        self.disk = site.create_vdi(self.sr, "qcow2", name="web")
        guest.write(site.chain(self.sr, self.disk), 0, MIB, 7)
        site.delete(site.snapshot(self.disk))
        self.digest = guest.digest(site.chain(self.sr, self.disk))
        self.images = site.images(self.sr)
        self.records = site.folder / "store" / ".sm"

    def whole(self) -> bool:
        """The held tree is as it was."""
        images = {node.stem for node in self.records.parent.glob("*.qcow2")}
        return self.images <= images and (
            guest.digest(self.site.chain(self.sr, self.disk)) == self.digest
        )


@pytest.fixture
def scene(site: Site) -> Scene:
    return Scene(site)


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_holds_its_tree_until_it_is_released(scene: Scene, damage: str) -> None:
    site, sr = scene.site, scene.sr
    path = scene.records / f"journal-coalesce-{scene.disk}"
    DAMAGES[damage](path)
    everything_works(site, sr, scene.other)
    for command in (
        ("vdi", "snapshot", scene.disk),
        ("vdi", "resize", scene.disk, "--size", str(32 * MIB)),
        ("vdi", "delete", scene.disk),
    ):
        with pytest.raises(Refused, match="cannot be read") as refused:
            site.sm(*command)
        assert refused.value.error["name"] in ("EGAIN", "VDIInUse")
    assert scene.whole()

    assert "journal-unreadable" in codes(site)
    site.run("--json", "doctor", "--fix", "--yes")
    assert not path.exists()
    (aside,) = scene.records.glob("aside-*")
    with pytest.raises(Refused, match="cannot be read"):
        site.sm("vdi", "delete", scene.disk)
    site.run("gc", "run", "--sr", sr)
    assert scene.whole()

    command = shlex.split(codes(site)["journal-aside"])
    assert command[0] == "sm"
    site.sm(*command[1:])
    assert codes(site) == {}
    assert [each.name for each in scene.records.glob("released-*")] == [f"released-1-{aside.name}"]
    everything_works(site, sr, scene.disk)
    assert site.images(sr) == {scene.disk, scene.other}
    assert guest.digest(site.chain(sr, scene.disk))


@pytest.mark.parametrize("name", [f"journal-coalesce-{NOBODY}", "journal-coalesce-x", "journal-"])
def test_one_that_names_no_image_holds_all(scene: Scene, name: str) -> None:
    (scene.records / name).write_bytes(b"?")
    site = scene.site
    for disk in (scene.disk, scene.other):
        with pytest.raises(Refused, match="cannot be read"):
            site.sm("vdi", "delete", disk)
        site.activate(disk)
        site.deactivate(disk)
    site.sm("sr", "scan", scene.sr)
    site.run("gc", "run", "--sr", scene.sr)
    assert scene.whole()


def test_another_sr_goes_on(scene: Scene) -> None:
    site = scene.site
    (scene.records / "journal-x").write_bytes(b"?")
    sr = site.create_sr("second")
    everything_works(site, sr, site.create_vdi(sr, "qcow2"))


def test_what_a_killed_copy_left_is_not_taken_for_finished(scene: Scene) -> None:
    """The record of work under way loses its content: its images stay, whatever they look like."""
    site = scene.site
    repository = site.repository(scene.sr)
    base = next(node.uuid for node in repository.look("test").forest if node.hidden)
    repository.journal.open(
        *("snapshot", scene.disk, "displace"),
        format="qcow2",
        base=base,
        copy=None,
        images=[base],
    )
    (path,) = scene.records.glob("journal-*")
    content = json.loads(path.read_text())
    del content["data"]["base"]
    path.write_text(json.dumps(content))
    site.sm("sr", "scan", scene.sr)
    assert path.exists()
    assert codes(site)["journal-unreadable"]
    site.run("gc", "run", "--sr", scene.sr)
    assert scene.whole()


def test_an_sr_with_such_a_record_is_not_destroyed(scene: Scene) -> None:
    site = scene.site
    for disk in (scene.disk, scene.other):
        site.delete(disk)
    (scene.records / "journal-x").write_bytes(b"?")
    with pytest.raises(Refused, match="journal-x"):
        site.sm("sr", "destroy", scene.sr)
    assert (scene.records / "journal-x").exists()


def test_names_that_are_no_utf8(scene: Scene) -> None:
    """In the folder of images and in that of records; also in the words of the doctor."""
    site, folder = scene.site, os.fsencode(scene.records)
    image = (scene.records.parent / f"{scene.other}.qcow2").read_bytes()
    for name in (b"\xff\xfe.qcow2", b"\xff.txt"):
        with open(os.path.join(os.path.dirname(folder), name), "wb") as file:  # noqa: PTH118, PTH120, PTH123
            file.write(image)
    everything_works(site, scene.sr, scene.disk)
    assert codes(site).keys() == {"stranger"}
    result = site.process("-m", "sm.cli.main", "doctor")
    assert (result.returncode, result.stderr) == (4, "")
    os.mkdir(os.path.join(folder, b"journal-\xff"))  # noqa: PTH102, PTH118
    assert "journal-unreadable" in codes(site)
    site.run("--json", "doctor", "--fix", "--yes")
    command = shlex.split(codes(site)["journal-aside"])
    site.sm(*command[1:])
    everything_works(site, scene.sr, scene.other)


@pytest.mark.parametrize("damage", ["empty", "deep", "link", "folder", "pipe"])
def test_how_far_a_merge_came(scene: Scene, damage: str) -> None:
    """Such a record counts for nothing: the merge takes place, and the record is replaced."""
    site = scene.site
    repository = site.repository(scene.sr)
    base = next(node.uuid for node in repository.look("test").forest if node.hidden)
    DAMAGES[damage](scene.records / f"merged-{base}")
    assert codes(site).keys() == {"progress-unreadable"}
    if damage == "folder":  # nothing can replace it
        site.run("--json", "doctor", "--fix", "--yes")
        assert codes(site) == {}
    assert site.run("gc", "run", "--sr", scene.sr)[0] == 0
    assert codes(site) == {}
    assert site.images(scene.sr) == {scene.disk, scene.other}
    assert guest.digest(site.chain(scene.sr, scene.disk)) == scene.digest


@pytest.mark.parametrize("value", ["rubbish", "[" * 100_000, "{}", '{"id": 1}'])
def test_a_claim_that_nobody_can_read_holds_its_image(scene: Scene, value: str) -> None:
    site = scene.site
    repository = site.repository(scene.sr)
    repository.pool.add_to_sr_sm_config(repository.record.ref, f"coalescing-{scene.disk}", value)
    everything_works(site, scene.sr, scene.other)
    assert "claim-unreadable" in codes(site)


def test_one_file_with_two_names_beside_a_record_that_nobody_can_read(site: Site) -> None:
    """As a copy leaves it that was killed, whose record is damaged then: refused, and told."""
    sr = site.create_sr()
    disk, other = (site.create_vdi(sr, "qcow2") for _ in range(2))
    folder = site.folder / "store"
    base = folder / f"{uuid.uuid4()}.qcow2"
    os.link(folder / f"{disk}.qcow2", base)
    (folder / ".sm" / f"journal-snapshot-{disk}").write_bytes(b"?")
    found = {each["code"] for each in site.sm("doctor", "--sr", sr)["findings"]}
    assert found >= {"image-twice", "journal-unreadable"}
    site.sm("sr", "scan", sr)
    with pytest.raises(Refused, match="one file"):
        site.sm("vdi", "snapshot", disk)
    site.snapshot(other)
