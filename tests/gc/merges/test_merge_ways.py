"""How a merge is carried out: the cheaper direction, with little space, again, and compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sm.cowutil.extents import Extents
from sm.cowutil.vhd.util import VhdUtil
from sm.errors import SmError
from sm.gc.collector import Collector, Step
from sm.gc.copying import comparison
from sm.gc.merges.merge import Done
from tests.gc.active import ActiveScene
from tests.gc.merges.test_crash import (
    LONG,
    Scene,
    coalesce_scene,
    pull_into_leaf_scene,
    pull_scene,
)
from tests.support import guest, small_disk
from tests.support.site import MIB, Site

pytestmark = pytest.mark.one_in(2)

SMALL = 96
"""So many MiB has the file system that is nearly full."""


def collect(scene: Scene) -> list[Done]:
    """Run the collector in this process; returns its merges."""
    collector = Collector(scene.site.repository(scene.sr))
    with collector.alone():
        steps: list[Step] = list(collector.run())
    return [step.done for step in steps if step.done.action != "delete"]


def actions(report: dict[str, Any]) -> list[str]:
    """What a run did."""
    return [step["action"] for step in report["done"]]


def test_a_small_image_goes_up_into_a_large_one(cow_format: str, site: Site) -> None:
    scene, images = pull_scene(site, cow_format)
    merged, pulled = collect(scene)
    assert (merged.action, merged.into) == ("coalesce", pulled.into)
    assert (pulled.action, len(pulled.images)) == ("coalesce", 1)
    assert pulled.bytes_copied == 256 * 1024
    scene.verify_tidy(images)


def test_a_large_leaf_takes_up_what_is_below_it(cow_format: str, site: Site) -> None:
    scene, images = pull_into_leaf_scene(site, cow_format)
    (done,) = collect(scene)
    assert (done.action, done.leaf, len(done.images)) == ("leaf-coalesce", scene.disk, 2)
    assert done.bytes_copied == MIB + 256 * 1024
    scene.verify_tidy(images)


def test_nothing_goes_up_into_what_is_in_use(site: Site) -> None:
    """The lowest stays: only that changes nothing that the user reads."""
    scene = ActiveScene(site, "vhd")
    scene.write(MIB, 256 * 1024, 2)
    small = scene.snapshot()
    scene.write(2 * MIB, 3 * MIB, 3)
    large = scene.snapshot()
    scene.write(0, 8192, 4)
    scene.snapshot()
    scene.delete(small, large)
    report = scene.collect()
    assert actions(report) == ["delete", "coalesce"]
    scene.verify_active()
    scene.verify()


def full_scene(folder: Path, image_format: str, free: int) -> Scene:
    """A merge of 20 MiB into 20 MiB on a disk with so many free bytes."""
    scene = Scene(Site(folder), image_format)
    scene.site.sm("vdi", "resize", scene.disk, "--size", str(64 * MIB))
    scene.models[scene.disk].data.extend(bytes(64 * MIB - len(scene.models[scene.disk].data)))
    scene.write(0, MIB, 1)
    scene.snapshot()
    scene.write(MIB, 20 * MIB, 2)
    lower = scene.snapshot()
    scene.write(21 * MIB, 20 * MIB, 3)
    upper = scene.snapshot()
    scene.write(0, 8192, 4)
    scene.snapshot()
    scene.delete(lower, upper)
    left = scene.site.repository(scene.sr).store.space().free - free
    (folder / "filler").write_bytes(bytes(left))
    return scene


@pytest.mark.own_namespaces
def test_with_little_space_it_gives_back_as_it_goes(cow_format: str, tmp_path: Path) -> None:
    folder = small_disk.mount(tmp_path / "small", SMALL)
    scene = full_scene(folder, cow_format, 22 * MIB)
    (done,) = collect(scene)
    assert done.action == "coalesce"
    assert done.bytes_copied >= 20 * MIB
    (folder / "filler").unlink()
    scene.verify_tidy(5)


@pytest.mark.own_namespaces
def test_with_too_little_space_it_says_what_is_missing(cow_format: str, tmp_path: Path) -> None:
    folder = small_disk.mount(tmp_path / "small", SMALL)
    scene = full_scene(folder, cow_format, 12 * MIB)
    before = {image.path: image.path.stat() for image in scene.site.chain(scene.sr, scene.disk)}
    report = scene.site.sm("gc", "run", "--sr", scene.sr)
    assert actions(report) == ["delete"]
    (waiting,) = report["waiting"]
    assert waiting["code"] == "no-space"
    assert "are missing" in waiting["reason"]
    after = {image.path: image.path.stat() for image in scene.site.chain(scene.sr, scene.disk)}
    assert {path: status.st_mtime_ns for path, status in before.items()} == {
        path: status.st_mtime_ns for path, status in after.items()
    }
    (folder / "filler").unlink()
    scene.verify()
    scene.site.sm("gc", "run", "--sr", scene.sr)
    scene.verify_tidy(5)


def test_space_that_was_reserved_comes_back(cow_format: str, site: Site) -> None:
    scene, images = coalesce_scene(site, cow_format)
    collect(scene)
    for image in scene.site.chain(scene.sr, scene.disk):
        status = image.path.stat()
        assert status.st_blocks * 512 <= status.st_size + 64 * 1024
    scene.verify_tidy(images)


def test_a_merge_beside_a_user_goes_on_from_where_it_was(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by an error after some steps, the next run copies only the rest."""
    site.configure(gc_step_mib=LONG)
    begins = []
    real = VhdUtil.coalesce

    def failing(self, chain, into, progress, steps):  # type: ignore[no-untyped-def]
        begins.append(steps.begin)

        def stumbling(done: int, total: int) -> None:
            if done > 5 * MIB and len(begins) == 1:
                raise OSError(5, "the disk is gone for a moment")
            progress(done, total)

        return real(self, chain, into, stumbling, replace(steps, length=MIB))

    scene = ActiveScene(site, "vhd")
    scene.write(0, 2 * MIB, 1)
    scene.snapshot()
    scene.write(2 * MIB, 2 * MIB, 2)
    second = scene.snapshot()
    scene.write(2 * MIB, 6 * MIB, 3)
    third = scene.snapshot()
    scene.write(0, 4096, 4)
    scene.snapshot()
    scene.delete(second, third)
    monkeypatch.setattr(VhdUtil, "coalesce", failing)
    scene.collect()
    scene.collect()
    assert begins[0] == 0
    assert begins[1] > 0
    scene.verify_active()
    scene.verify()
    scene.verify_tidy(5)
    assert not [
        name for name in scene.site.repository(scene.sr).store.records() if "merged" in name
    ]


def test_content_is_compared_where_the_sr_asks_for_it(
    cow_format: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Extents] = []
    real = comparison.compare

    def watched(repository, merged, target, *, before):  # type: ignore[no-untyped-def]
        assert len(merged) == 2
        compared.append(before)
        real(repository, merged, target, before=before)

    monkeypatch.setattr(comparison, "compare", watched)
    scene, images = pull_into_leaf_scene(site, cow_format)
    repository = scene.site.repository(scene.sr)
    repository.pool.add_to_sr_other_config(repository.record.ref, "gc-verify", "content")
    collect(scene)
    assert len(compared) == 1
    scene.verify_tidy(images)


def test_a_copy_that_differs_is_found(cow_format: str, site: Site) -> None:
    """Tables that say the right thing over the wrong data: only the comparison sees that."""
    scene = Scene(site, cow_format)
    disks = [scene.disk, *(scene.site.create_vdi(scene.sr, cow_format) for _ in range(2))]
    chains = [scene.site.chain(scene.sr, disk) for disk in disks]
    for chain, byte in zip(chains, (1, 1, 2), strict=True):
        guest.write(chain, MIB, MIB, byte)
    one, same, other = (chain[0] for chain in chains)
    repository, nothing = scene.site.repository(scene.sr), Extents.of(())
    comparison.compare(repository, [one], same, before=nothing)
    with pytest.raises(SmError, match="differs near byte 1048576"):
        comparison.compare(repository, [one], other, before=nothing)
    comparison.compare(repository, [one], other, before=Extents.of([(MIB, 2 * MIB)]))
