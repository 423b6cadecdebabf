"""The collector killed at journaled steps, in a soak at every one.

Content stays, and the next run leaves nothing.
"""

from __future__ import annotations

from contextlib import closing

import pytest

from sm.cowutil.vhd.block_file import Access, open_file
from tests.datapath.clients import qemu_io
from tests.gc.killed import killed_at, steps_of
from tests.support import guest
from tests.support.guest import Model
from tests.support.saved import Saved
from tests.support.site import MIB, NewSite, Site
from tests.support.tiers import chosen

SIZE = 8 * MIB


SHORT, LONG = 128, 1 / 16
"""MiB of a step: a merge of more than eight of them is a long one."""


class Scene:
    """An SR with one disk whose snapshots give the collector a certain kind of work."""

    def __init__(self, site: Site, image_format: str) -> None:
        self.site = site
        self.sr = site.create_sr()
        self.models: dict[str, Model] = {}
        self.disk = site.create_vdi(self.sr, image_format, SIZE)
        self.models[self.disk] = Model(SIZE)

    def write(self, offset: int, length: int, byte: int) -> None:
        """The guest writes to the disk."""
        chain = self.site.chain(self.sr, self.disk)
        self.models[self.disk].write(chain, offset, length, byte)

    def snapshot(self) -> str:
        """Keep the present content."""
        uuid = self.site.snapshot(self.disk)
        self.models[uuid] = self.models[self.disk].copy()
        return uuid

    def delete(self, *uuids: str) -> None:
        """Delete snapshots."""
        for uuid in uuids:
            self.site.delete(uuid)
            del self.models[uuid]

    def verify(self) -> None:
        """Every disk reads as it should, and every image is sound."""
        for uuid, model in self.models.items():
            chain = self.site.chain(self.sr, uuid)
            assert guest.content(chain) == model.data, f"content of {uuid}"
            assert guest.check_clean(chain) == []

    def verify_tidy(self, images: int) -> None:
        """Nothing is left of the work or of its interruption."""
        self.verify()
        repository = self.site.repository(self.sr)
        assert repository.journal.entries() == []
        assert not [key for key in repository.record.sm_config if key.startswith("coalescing")]
        assert len(self.site.images(self.sr)) == images
        assert set(repository.vdis()) == self.site.images(self.sr)
        folder = repository.store.path(self.disk, "raw").parent
        assert not list(folder.glob(".new-*"))


def coalesce_scene(site: Site, image_format: str) -> tuple[Scene, int]:
    """Two deleted snapshots between a kept one and the disk, which also keeps a newest one."""
    scene = Scene(site, image_format)
    scene.write(0, 2 * MIB, 1)
    scene.snapshot()
    scene.write(MIB, 2 * MIB, 2)
    second = scene.snapshot()
    scene.write(3 * MIB, MIB + 4096, 3)
    third = scene.snapshot()
    scene.write(MIB, 4096, 4)
    scene.snapshot()
    scene.write(2 * MIB, 8192, 5)
    scene.delete(second, third)
    # The base with its snapshot, the merged node with the newest snapshot, and the disk.
    return scene, 5


def leaf_scene(site: Site, image_format: str) -> tuple[Scene, int]:
    """All snapshots deleted: the disk ends as a single image."""
    scene = Scene(site, image_format)
    scene.write(0, 2 * MIB, 1)
    first = scene.snapshot()
    scene.write(MIB, 2 * MIB, 2)
    second = scene.snapshot()
    scene.write(5 * MIB, MIB, 3)
    scene.delete(first, second)
    return scene, 1


def pull_scene(site: Site, image_format: str) -> tuple[Scene, int]:
    """Above a kept base, a large deleted snapshot over a small one: the small one goes up."""
    scene = Scene(site, image_format)
    scene.write(0, MIB, 1)
    scene.snapshot()
    scene.write(MIB, 256 * 1024, 2)
    small = scene.snapshot()
    scene.write(2 * MIB, 3 * MIB, 3)
    large = scene.snapshot()
    scene.write(0, 8192, 4)
    scene.snapshot()
    scene.write(MIB, 4096, 5)
    scene.delete(small, large)
    return scene, 5


def pull_into_leaf_scene(site: Site, image_format: str) -> tuple[Scene, int]:
    """All snapshots deleted, and the disk itself shows the most: what is below goes up into it."""
    scene = Scene(site, image_format)
    scene.write(0, MIB, 1)
    first = scene.snapshot()
    scene.write(MIB, 256 * 1024, 2)
    second = scene.snapshot()
    scene.write(2 * MIB, 4 * MIB, 3)
    scene.delete(first, second)
    return scene, 1


SCENES = [coalesce_scene, leaf_scene, pull_scene, pull_into_leaf_scene]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("step", [SHORT, LONG])
@pytest.mark.parametrize("build", SCENES)
def test_merged_in_one_run(build, step: float, cow_format: str, site: Site) -> None:
    """Nothing that the work does by itself is in its own way."""
    site.configure(gc_step_mib=step)
    scene, images = build(site, cow_format)
    report = site.sm("gc", "run", "--sr", scene.sr)
    assert report["waiting"] == []
    scene.verify_tidy(images)


@pytest.mark.one_in(6)
@pytest.mark.parametrize("step", [SHORT, LONG])
@pytest.mark.parametrize("build", SCENES)
def test_killed_at_every_step(build, step: float, cow_format: str, site: Site) -> None:
    site.configure(gc_step_mib=step)
    scene, images = build(site, cow_format)
    saved = Saved(site)
    steps = steps_of(site, scene.sr)
    scene.verify_tidy(images)
    assert len(steps) >= 5

    which = f"{build.__name__}, {cow_format}, steps of {step} MiB"
    for number in chosen(range(1, len(steps) + 1), 3, which):
        saved.restore()
        killed_at(site, scene.sr, number)
        scene.verify()
        site.sm("gc", "run", "--sr", scene.sr)
        scene.verify_tidy(images)


def test_recovery_waits_for_whoever_writes_to_an_image(new_site: NewSite) -> None:
    """Its entry stays and keeps others from the images; a later run settles it."""
    # Before the switch is journaled, which undoes the copy, and after it, which goes on.
    for step in ("leaf-coalesce: switch", "leaf-coalesce: unhide"):
        scene, images = leaf_scene(new_site(step.rpartition(" ")[2]), "vhd")
        killed_at(scene.site, scene.sr, step)
        (entry,) = scene.site.repository(scene.sr).journal.entries()
        target = scene.site.repository(scene.sr).store.path(entry.data["into"], "vhd")
        with closing(open_file(target, Access.WRITE)):
            before = target.read_bytes()
            scene.site.sm("gc", "run", "--sr", scene.sr)
            assert target.read_bytes() == before
            (still,) = scene.site.repository(scene.sr).journal.entries()
            assert (still.operation, still.stage) == (entry.operation, entry.stage)
            scene.verify()
        scene.site.sm("gc", "run", "--sr", scene.sr)
        scene.verify_tidy(images)


@pytest.mark.one_in(2)
def test_the_next_use_of_a_disk_mends_it_first(cow_format: str, site: Site) -> None:
    """No collector runs after the crash; the disk itself is wanted."""
    scene, images = leaf_scene(site, cow_format)
    saved = Saved(site)
    steps = steps_of(site, scene.sr)
    first = steps.index("leaf-coalesce: copy") + 1
    scene.models[scene.disk].data[4 * MIB : 4 * MIB + 4096] = bytes([9]) * 4096
    for number in chosen(range(first, len(steps) + 1), 3, f"next use, {cow_format}"):
        saved.restore()
        killed_at(site, scene.sr, number)
        qemu_io(site.activate(scene.disk), f"write -P 9 {4 * MIB} 4096")
        site.deactivate(scene.disk)
        scene.verify()
        site.sm("gc", "run", "--sr", scene.sr)
        scene.verify_tidy(images)
