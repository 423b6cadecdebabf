"""Disks that a tapdisk serves, through the commands: snapshots of them, and merges below them.

What is on the storage in the end is read by qemu and libvhdi.
"""

from __future__ import annotations

import json
import subprocess

import pytest

from sm.datapath.base import Disk
from sm.datapath.links import Links
from sm.datapath.tapdisk.wire import Kind
from tests.datapath.clients import Writer, qemu_io
from tests.datapath.tapdisk.active import (
    IMAGES_LEFT,
    configure,
    merges,
    run_scene,
    verify_closed,
    verify_served,
)
from tests.datapath.tapdisk.fixture import Tapdisk
from tests.datapath.tapdisk.test_tapdisk import markers
from tests.gc.active import SIZE, ActiveScene, coalesce_scene
from tests.support.guest import Model
from tests.support.site import MIB, Site

pytestmark = pytest.mark.one_in(2)


def test_activate_write_deactivate(tapdisk: Tapdisk, tapdisk_site: Site, cow_format: str) -> None:
    scene = ActiveScene(tapdisk_site, cow_format)
    settings = tapdisk_site.repository(scene.sr).settings
    link = Links(settings).socket(Disk(scene.sr, scene.disk))
    through_link = f"nbd+unix:///{scene.disk}?socket={link}"
    told = subprocess.run(["nbdinfo", "--json", through_link], capture_output=True, check=True)
    (export,) = json.loads(told.stdout)["exports"]
    assert (export["export-name"], export["export-size"]) == (scene.disk, SIZE)
    scene.write(MIB, 2 * MIB, 7)
    qemu_io(through_link, f"read -P 7 {MIB} {2 * MIB}", f"read -P 0 0 {MIB}")
    assert tapdisk_site.activate(scene.disk) == scene.uri
    assert len(markers(tapdisk)) == 1
    verify_closed(scene)
    assert not link.exists()
    assert markers(tapdisk) == []
    assert not list(tapdisk.control.glob("ctl*"))
    scene.uri = tapdisk_site.activate(scene.disk, "--read-only")
    verify_served(scene)
    with pytest.raises(subprocess.CalledProcessError):
        scene.write(0, 4096, 1)
    verify_closed(scene)


def test_snapshots_under_a_writer(tapdisk: Tapdisk, tapdisk_site: Site, cow_format: str) -> None:
    """Each has the content of its moment, which its base, read alone, tells too."""
    scene = ActiveScene(tapdisk_site, cow_format)
    scene.write(0, 3 * MIB, 1)
    resumed = tapdisk.requests(Kind.RESUME)
    scene.snapshot()
    # The second time because the base got its hidden mark while tapdisk had it open.
    assert tapdisk.requests(Kind.RESUME) == resumed + 2
    bases = []
    with Writer(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
        for _ in range(3):
            writer.go_on(5)
            kept = tapdisk_site.snapshot(scene.disk)
            bases.append(tapdisk_site.chain(scene.sr, kept)[1])
            frozen = bases[-1].path.read_bytes()
            writer.go_on(5)
            assert bases[-1].path.read_bytes() == frozen
            tapdisk_site.delete(kept)
    scene.models[scene.disk] = Model(SIZE, bytes(writer.data))
    verify_served(scene)
    forest = tapdisk_site.repository(scene.sr).look("test").forest
    assert [node.hidden for node in forest.chain(scene.disk)] == [False, True, True, True, True]
    verify_closed(scene)


def test_a_deleted_snapshot_goes_while_the_guest_writes(
    tapdisk: Tapdisk, tapdisk_site: Site, cow_format: str
) -> None:
    """Into the base of the chain, which every build can: VHD beside tapdisk, QCOW2 through it."""
    configure(tapdisk_site, tapdisk, into_parent=False)
    scene = ActiveScene(tapdisk_site, cow_format)
    scene.write(0, 3 * MIB, 1)
    first = scene.snapshot()
    scene.write(2 * MIB, 3 * MIB, 2)
    second = scene.snapshot()
    with Writer(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
        writer.go_on(5)
        scene.delete(first)
        resumed = tapdisk.requests(Kind.RESUME)
        report = scene.collect()
        assert tapdisk.requests(Kind.RESUME) == resumed + 1
        writer.go_on(5)
    steps = report["done"]
    assert isinstance(steps, list)
    assert [step["action"] for step in steps] == ["delete", "coalesce"]
    assert steps[1]["through"] == (scene.disk if cow_format == "qcow2" else None)
    assert tapdisk.requests(Kind.COMMIT) == (cow_format == "qcow2")
    scene.models = {
        scene.disk: Model(SIZE, bytes(writer.data)),
        second: scene.models[second],
    }
    verify_served(scene)
    scene.verify_tidy(3)
    verify_closed(scene)


def test_a_run_into_the_base_of_the_chain(
    tapdisk: Tapdisk, tapdisk_site: Site, cow_format: str
) -> None:
    """Two images below a third: QCOW2 from the base upwards, one image at a time."""
    configure(tapdisk_site, tapdisk, into_parent=False)
    scene = run_scene(tapdisk_site, cow_format)
    report = scene.collect()
    assert merges(report) == ([1, 1] if cow_format == "qcow2" else [2])
    verify_served(scene)
    scene.verify_tidy(IMAGES_LEFT)
    scene.write(5 * MIB, MIB, 6)
    verify_served(scene)
    verify_closed(scene)


def test_a_run_into_the_middle_of_the_chain(tapdisk_site: Site, cow_format: str) -> None:
    scene, images = coalesce_scene(tapdisk_site, cow_format)
    report = scene.collect()
    assert merges(report) == ([1, 1] if cow_format == "qcow2" else [2])
    verify_served(scene)
    scene.verify_tidy(images)
    verify_closed(scene)


def test_the_middle_of_the_chain_waits_where_the_build_is_not_known(
    tapdisk: Tapdisk, tapdisk_site: Site
) -> None:
    configure(tapdisk_site, tapdisk, into_parent=False)
    scene, images = coalesce_scene(tapdisk_site, "qcow2")
    report = scene.collect()
    assert merges(report) == []
    waiting = report["waiting"]
    assert isinstance(waiting, list)
    assert ["is not the base of its chain" in each["reason"] for each in waiting] == [True]
    assert tapdisk.requests(Kind.COMMIT) == 0
    verify_served(scene)
    tapdisk_site.deactivate(scene.disk)
    assert merges(scene.collect()) == [2]
    scene.verify_tidy(images)
    verify_closed(scene)


def test_marks_of_inner_images_outlast_later_merges(tapdisk_site: Site, cow_format: str) -> None:
    """An image hidden while it was open is the upper image of a merge: its mark must stay."""
    scene = ActiveScene(tapdisk_site, cow_format)
    kept = []
    for byte in range(1, 6):
        scene.write(byte * 64 << 10, 256 << 10, byte)
        kept.append(scene.snapshot())
    for uuid in kept[:-1]:
        scene.delete(uuid)
        scene.collect()
        forest = tapdisk_site.repository(scene.sr).look("test").forest
        assert {node.uuid for node in forest if not node.hidden} == set(scene.models)
        verify_served(scene)
    scene.verify_tidy(3)
    verify_closed(scene)
