"""Disks whose image is away for a while: nothing that they need goes, and they come back whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import guest
from tests.support.guest import Model
from tests.support.site import MIB, Refused, Site

pytestmark = pytest.mark.one_in(2)

LIFE = ("name_label", "is_a_snapshot", "snapshot_of", "snapshot_time")


@dataclass(frozen=True)
class Scene:
    """A disk with a snapshot between its base and what was written since."""

    site: Site
    sr: str
    image_format: str
    disk: str
    snapshot: str
    model: Model
    kept: Model

    def path(self, uuid: str) -> Path:
        """The file of an image."""
        return self.site.folder / "store" / f"{uuid}.{self.image_format}"

    def take_away(self, *uuids: str) -> None:
        """Move files to where nobody looks for them."""
        for uuid in uuids:
            self.path(uuid).rename(self.site.folder / self.path(uuid).name)

    def bring_back(self, *uuids: str) -> None:
        """Move them back, and look at the SR."""
        for uuid in uuids:
            (self.site.folder / self.path(uuid).name).rename(self.path(uuid))
        self.site.sm("sr", "scan", self.sr)

    def life(self, uuid: str) -> dict[str, object]:
        """What only the pool knows of a disk."""
        shown = self.site.sm("vdi", "show", uuid)
        return {key: shown[key] for key in LIFE if key in shown}

    def verify(self) -> None:
        """The disk reads as it was written."""
        assert guest.content(self.site.chain(self.sr, self.disk)) == self.model.data

    def codes(self) -> list[str]:
        """What the doctor finds."""
        document = self.site.sm("doctor", "--sr", self.sr)
        return [finding["code"] for finding in document["findings"]]


@pytest.fixture
def scene(site: Site, cow_format: str) -> Scene:
    sr = site.create_sr()
    disk = site.create_vdi(sr, cow_format, 16 * MIB, name="web")
    model = Model(16 * MIB)
    model.write(site.chain(sr, disk), 0, 5 * MIB, 1)
    snapshot, kept = site.snapshot(disk), model.copy()
    model.write(site.chain(sr, disk), 3 * MIB, 5 * MIB, 2)
    return Scene(site, sr, cow_format, disk, snapshot, model, kept)


@pytest.mark.parametrize("scanned", [False, True])
def test_what_a_disk_needs_stays_while_its_image_is_away(scene: Scene, *, scanned: bool) -> None:
    site = scene.site
    scene.take_away(scene.disk)
    if scanned:
        site.sm("sr", "scan", scene.sr)
    site.delete(scene.snapshot)
    ended = site.sm("gc", "run", "--sr", scene.sr)
    assert [step["action"] for step in ended["done"]] in ([], ["delete"])
    assert {each["code"] for each in ended["waiting"]} <= {"image-missing"}
    assert "image-missing" in scene.codes()
    scene.bring_back(scene.disk)
    scene.verify()
    site.sm("gc", "run", "--sr", scene.sr)
    assert site.images(scene.sr) == {scene.disk}
    scene.verify()
    assert scene.codes() == []


def test_a_sibling_is_not_merged_with_what_a_disk_needs(scene: Scene) -> None:
    """The base would take the snapshot's place, with what only the snapshot holds."""
    site = scene.site
    clone = site.clone(scene.snapshot)
    site.delete(scene.snapshot)
    site.sm("gc", "run", "--sr", scene.sr)
    guest.write(site.chain(scene.sr, clone), 0, 8 * MIB, 9)
    scene.take_away(scene.disk)
    site.sm("sr", "scan", scene.sr)
    assert site.sm("gc", "run", "--sr", scene.sr)["done"] == []
    scene.bring_back(scene.disk)
    scene.verify()


def test_what_the_pool_knows_of_a_disk_stays_while_its_image_is_away(scene: Scene) -> None:
    before = {uuid: scene.life(uuid) for uuid in (scene.disk, scene.snapshot)}
    assert before[scene.snapshot]["is_a_snapshot"]
    scene.take_away(scene.disk, scene.snapshot)
    scene.site.sm("sr", "scan", scene.sr)
    assert scene.site.sm("vdi", "show", scene.disk)["missing"]
    for command in ("activate", "snapshot"):
        with pytest.raises(Refused, match="missing"):
            scene.site.sm("vdi", command, scene.disk)
    scene.bring_back(scene.disk, scene.snapshot)
    assert {uuid: scene.life(uuid) for uuid in before} == before
    assert not scene.site.sm("vdi", "show", scene.disk)["missing"]
    scene.verify()
    assert guest.content(scene.site.chain(scene.sr, scene.snapshot)) == scene.kept.data


@pytest.mark.parametrize("command", ["forget", "delete"])
def test_a_disk_that_is_lost_for_good_is_given_up(scene: Scene, command: str) -> None:
    site = scene.site
    with pytest.raises(Refused, match="sm vdi delete"):
        site.sm("vdi", "forget", scene.disk)
    scene.take_away(scene.disk)
    site.sm("vdi", command, scene.disk)
    assert scene.codes() == []
    site.sm("gc", "run", "--sr", scene.sr)
    assert guest.content(site.chain(scene.sr, scene.snapshot)) == scene.kept.data
    assert site.images(scene.sr) == {scene.snapshot}


def test_an_image_that_is_away_is_not_given_up_below_others(scene: Scene) -> None:
    base = scene.site.sm("vdi", "show", scene.disk)["parent"]
    scene.take_away(base)
    scene.site.sm("sr", "scan", scene.sr)
    with pytest.raises(Refused, match="needs it"):
        scene.site.sm("vdi", "forget", base)
    scene.bring_back(base)
    scene.verify()


def test_an_sr_is_not_destroyed_while_an_image_is_away(scene: Scene) -> None:
    scene.take_away(scene.disk)
    scene.site.delete(scene.snapshot)
    with pytest.raises(Refused, match=scene.disk):
        scene.site.sm("sr", "destroy", scene.sr)
    scene.bring_back(scene.disk)
    scene.verify()
