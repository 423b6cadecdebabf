"""Merging below disks in use: what a guest reads never changes, and the work ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from sm.gc.collector import Collector, Step
from sm.owner import start_time
from tests.datapath.clients import Writer
from tests.gc.active import ActiveScene, SavedScene, coalesce_scene
from tests.gc.killed import killed_at, steps_of
from tests.support.guest import Model
from tests.support.patience import patient, until
from tests.support.site import MIB, NewSite, Site
from tests.support.tiers import chosen

pytestmark = pytest.mark.one_in(2)

Hook = Callable[[], None]


def test_a_deleted_snapshot_goes_while_the_guest_writes(cow_format: str, site: Site) -> None:
    """C <- B' <- leaf: B' is merged into C below the leaf of a writer that checks its own data."""
    scene = ActiveScene(site, cow_format, 16 * MIB)
    scene.write(0, 6 * MIB, 1)
    first = scene.snapshot()
    scene.write(4 * MIB, 6 * MIB, 2)
    second = scene.snapshot()
    with Writer(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
        scene.delete(first)
        report = scene.collect()
        rounds = writer.rounds
        site.delete(scene.snapshot())
        until(lambda: writer.rounds >= rounds + 20)
        writer.stop()
    done = [step["action"] for step in report["done"]]
    assert done == ["delete", "coalesce"]
    assert report["done"][1]["through"] == (scene.disk if cow_format == "qcow2" else None)
    scene.models = {
        scene.disk: Model(scene.size, bytes(writer.data)),
        second: scene.models[second],
    }
    scene.verify_active()
    scene.collect()
    scene.verify()


def test_a_run_below_an_active_disk_is_merged_at_once(cow_format: str, site: Site) -> None:
    scene, images = coalesce_scene(site, cow_format)
    report = scene.collect()
    assert [len(step["images"]) for step in report["done"]] == [2, 2]
    scene.verify_active()
    scene.verify_tidy(images)
    scene.write(5 * MIB, MIB, 6)
    scene.verify_active()
    scene.verify()


def test_marks_of_inner_images_outlast_later_merges(cow_format: str, site: Site) -> None:
    """An image hidden while it was open is the upper image of a merge: its mark must stay."""
    scene = ActiveScene(site, cow_format)
    kept = []
    for byte in range(1, 7):
        scene.write(byte * 64 << 10, 256 << 10, byte)
        kept.append(scene.snapshot())
    for uuid in kept[:-1]:
        scene.delete(uuid)
        scene.collect()
        forest = site.repository(scene.sr).look("test").forest
        assert {node.uuid for node in forest if not node.hidden} == set(scene.models)
        scene.verify_active()
    scene.verify_tidy(3)
    scene.verify()


def test_a_leaf_that_is_only_read_waits_for_its_end_of_use(cow_format: str, site: Site) -> None:
    scene = ActiveScene(site, cow_format)
    scene.write(0, MIB, 1)
    site.deactivate(scene.disk)
    scene.uri = site.activate(scene.disk, "--read-only")
    scene.delete(scene.snapshot())
    report = scene.collect()
    assert [waiting["code"] for waiting in report["waiting"]] == ["active-leaf"]
    site.deactivate(scene.disk)
    report = scene.collect()
    assert [step["action"] for step in report["done"]] == ["leaf-coalesce"]
    scene.verify_tidy(1)
    scene.verify()


def test_two_disks_in_use_above_one_image(cow_format: str, site: Site) -> None:
    """Two datapaths on one host: VHD goes on beside both, QCOW2 waits until one goes."""
    scene, _ = coalesce_scene(site, cow_format)
    clone = site.clone(scene.disk)
    scene.models[clone] = scene.models[scene.disk].copy()
    other = site.activate(clone)
    report = scene.collect()
    if cow_format == "qcow2":
        assert {waiting["code"] for waiting in report["waiting"]} == {"several-users"}
        site.deactivate(clone)
        report = scene.collect()
    assert "coalesce" in [step["action"] for step in report["done"]]
    scene.verify_active()
    if cow_format == "vhd":
        assert Model(scene.size, read(other, scene.size)).data == scene.models[clone].data
        site.deactivate(clone)
    scene.verify()


def read(uri: str, size: int) -> bytes:
    """A disk in use, whole."""
    ended = subprocess.run(
        ["nbdcopy", uri, "-"], capture_output=True, check=True, timeout=patient(60)
    )
    assert len(ended.stdout) == size
    return ended.stdout


def test_killed_at_every_step(cow_format: str, new_site: NewSite) -> None:
    """The collector dies at journaled steps of a merge below a disk in use: one in three."""
    scene, images = coalesce_scene(new_site("whole"), cow_format)
    steps = steps_of(scene.site, scene.sr)
    scene.verify_tidy(images)
    assert ("coalesce: commit" in steps) == (cow_format == "qcow2")
    saved = SavedScene(coalesce_scene(new_site("killed"), cow_format)[0])
    for number in chosen(range(1, len(steps) + 1), 3, f"merge below a disk, {cow_format}"):
        scene = saved.again()
        killed_at(scene.site, scene.sr, number)
        scene.verify_active()
        scene.write(6 * MIB, 4096, 7)
        scene.collect()
        scene.verify_tidy(images)
        scene.verify_active()
        scene.verify()


def collect_here(scene: ActiveScene, hook: Hook, at: str = "") -> list[Step]:
    """Run the collector in this process; `hook` is called once, while data is being copied.

    With `at`, it is called before that journaled step instead.
    """
    waiting = [hook]

    def now() -> None:
        if waiting:
            waiting.pop()()

    def observe(step: str) -> None:
        if step == at:
            now()

    def progress(done: int, total: int) -> None:
        if not at:
            now()

    collector = Collector(scene.site.repository(scene.sr, observe), progress)
    with collector.alone():
        steps = list(collector.run())
    assert not waiting, "the moment never came"
    return steps


def kill(pid: int) -> None:
    """End a process with SIGKILL, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: start_time(pid) is None)


@pytest.mark.parametrize("at", ["", "coalesce: relink"])
def test_the_datapath_dies_in_a_commit(at: str, site: Site) -> None:
    """Killed while it copies, or when all is copied and it has not been told to let go."""
    scene, images = coalesce_scene(site, "qcow2")
    pid = scene.datapath_pid()
    steps = collect_here(scene, lambda: kill(pid), at)
    assert [step.done.action for step in steps] == ["delete"] + ["coalesce"] * bool(at)
    scene.uri = site.activate(scene.disk)
    scene.verify_active()
    scene.collect()
    scene.verify_tidy(images)
    scene.verify_active()
    scene.verify()


def test_deactivation_in_the_middle_of_a_merge(cow_format: str, site: Site) -> None:
    scene, images = coalesce_scene(site, cow_format)
    collect_here(scene, lambda: site.deactivate(scene.disk))
    scene.verify()
    scene.collect()
    scene.verify_tidy(images)
    scene.verify()


def until_asked_to_yield(scene: ActiveScene, *command: str) -> Any:
    """Run the collector; `sm COMMAND` runs beside it from the first copied byte.

    The copy stands still until somebody wants it to give way. What is planned anew after that may
    be done. Returns what the command answered.
    """
    started: list[subprocess.Popen[str]] = []
    requests = scene.site.repository(scene.sr).settings.run / "gc"

    def progress(done: int, total: int) -> None:
        if started:
            return
        started.append(scene.site.start(*command))
        until(lambda: list(requests.glob("*.yield")), "the request to give way")

    collector = Collector(scene.site.repository(scene.sr), progress)
    with collector.alone():
        # Planned anew, a merge may be done before the disk is open, or through what opened it.
        assert all(step.done.through in (None, scene.disk) for step in collector.run())
    return scene.site.result(started[0])


def test_activation_ends_an_offline_merge(cow_format: str, site: Site) -> None:
    scene, images = coalesce_scene(site, cow_format)
    site.deactivate(scene.disk)
    scene.uri = until_asked_to_yield(scene, "vdi", "activate", scene.disk)["nbd"]
    scene.verify_active()
    scene.collect()
    scene.verify_tidy(images)
    scene.verify_active()
    scene.verify()


def test_a_snapshot_ends_a_merge_below_its_disk(cow_format: str, site: Site) -> None:
    scene, images = coalesce_scene(site, cow_format)
    snapshot = until_asked_to_yield(scene, "vdi", "snapshot", scene.disk)["uuid"]
    scene.models[snapshot] = scene.models[scene.disk].copy()
    scene.write(7 * MIB, 4096, 8)
    scene.collect()
    scene.verify_tidy(images + 2)
    scene.verify_active()
    scene.verify()
