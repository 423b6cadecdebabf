"""The leaf of a disk in use merged into an image below it: the guest never sees anything of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from sm.cowutil.errors import Cancelled
from sm.datapath.base import MirroringDatapath
from sm.datapath.choose import Datapaths
from sm.gc.leaf_in_use import convergence
from sm.gc.leaf_in_use.convergence import Speed
from sm.journal import Entry
from tests.datapath.clients import Writer, content
from tests.gc import killed
from tests.gc.active import SIZE, ActiveScene, SavedScene
from tests.gc.merges.test_online import collect_here, kill, until_asked_to_yield
from tests.soak.durable_writer import DurableWriter
from tests.soak.kill_rounds import HELD
from tests.support.killing import killed_at
from tests.support.site import MIB, PAUSE_SECONDS, NewSite, Site
from tests.support.tiers import chosen, every

SLOW = int((1040 << 10) / PAUSE_SECONDS)
"""Bytes per second, with which a leaf of a few MiB must get smaller before a pause."""

SWITCH = ["pause", "unhide", "supersede", "resume"]
"""The steps of the switch with every datapath."""


def leaf_scene(site: Site, image_format: str) -> ActiveScene:
    """Two deleted snapshots below a disk in use, which is the only one: all can be one image."""
    scene = ActiveScene(site, image_format)
    scene.write(0, 2 * MIB, 1)
    first = scene.snapshot()
    scene.write(MIB, 2 * MIB, 2)
    second = scene.snapshot()
    scene.write(5 * MIB, MIB, 3)
    scene.delete(first, second)
    return scene


def large_scene(site: Site, image_format: str) -> ActiveScene:
    """A deleted snapshot below a disk in use, and nothing to merge but the disk's own image."""
    scene = ActiveScene(site, image_format)
    scene.write(0, 2 * MIB, 1)
    first = scene.snapshot()
    scene.write(MIB, 3 * MIB, 2)
    scene.delete(first)
    return scene


def took_over(scene: ActiveScene, writer: Writer) -> None:
    """The disk holds what the writer wrote."""
    scene.models[scene.disk].data[:] = writer.data


def leaf_steps(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The merges of leaves."""
    return [step for step in report["done"] if step["action"] == "leaf-coalesce"]


def entries(scene: ActiveScene) -> list[Entry]:
    """The unfinished work of the SR."""
    return scene.site.repository(scene.sr).journal.entries()


def test_a_leaf_is_merged_while_its_guest_writes(cow_format: str, site: Site) -> None:
    """It writes on up to the switch, which is the only time that it is held."""
    scene = leaf_scene(site, cow_format)
    with Writer(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
        writer.go_on(5)
        steps = collect_here(scene, lambda: writer.go_on(5), HELD)
        (done,) = (step.done for step in steps if step.done.action == "leaf-coalesce")
        assert done.through == done.leaf == scene.disk
        assert len(done.images) == 2
        assert done.pause_seconds > 0
        assert done.bytes_copied > 0
        assert done.bytes_freed > 0
        scene.verify_tidy(1)
        writer.go_on(20)
    took_over(scene, writer)
    scene.verify_active()
    scene.verify()


@pytest.mark.one_in(2)
def test_marks_outlast_what_comes_after(cow_format: str, site: Site) -> None:
    """The merged image was hidden when it was opened: nobody may write that mark back later."""
    scene = leaf_scene(site, cow_format)
    scene.collect()
    scene.verify_tidy(1)
    kept, doomed = scene.snapshot(), scene.snapshot()
    scene.write(3 * MIB, 4096, 4)
    scene.delete(doomed)
    assert len(leaf_steps(scene.collect())) == 1
    scene.verify_tidy(3)
    inner = []
    for byte in (5, 6, 7):
        scene.write(byte * MIB, 4096, byte)
        inner.append(scene.snapshot())
    scene.delete(*inner[:2])
    done = scene.collect()["done"]
    assert [step["action"] for step in done] == ["delete", "coalesce"]  # type: ignore[attr-defined]
    scene.verify_tidy(5)
    scene.verify_active()
    scene.delete(kept, inner[2])
    assert len(leaf_steps(scene.collect())) == 1
    scene.verify_tidy(1)
    scene.verify_active()
    scene.verify()


# QCOW2 is mirrored, which has no rounds that a speed would lead to.
@pytest.mark.one_in(3)
@pytest.mark.parametrize(("cow_format", "speed"), [("qcow2", 0), ("vhd", 0), ("vhd", SLOW)])
def test_the_collector_killed_at_every_step(speed: int, cow_format: str, new_site: NewSite) -> None:
    """At one step in four; the guest writes all the time, whoever comes next lets it go on."""
    make = large_scene if speed else leaf_scene
    scene = make(new_site("whole"), cow_format)
    steps = killed.steps_of(scene.site, scene.sr, speed)
    scene.verify_tidy(1)
    assert [
        step.removeprefix("leaf-switch: ") for step in steps if step in switch_steps()
    ] == SWITCH
    assert any(step.startswith("snapshot:") for step in steps) == bool(speed)
    first = next(number for number, step in enumerate(steps, 1) if step.endswith(": copy"))
    if speed:  # what comes before and after is as without it
        first = steps.index("snapshot: displace") + 1
        del steps[steps.index("active-leaf-coalesce: copy") :]
    saved = SavedScene(make(new_site("killed"), cow_format))
    moments = range(first, len(steps) + 1)
    for number in chosen(moments, 4, f"leaf merge, {cow_format}, {speed}"):
        scene = saved.again()
        with Writer(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
            writer.go_on(2)
            killed.killed_at(scene.site, scene.sr, number, speed)
            if number % 3 == 1:
                assert scene.site.activate(scene.disk) == scene.uri
            elif number % 3 == 2:
                scene.site.sm("sr", "attach", scene.sr)
            else:
                scene.collect()
            writer.go_on(3)
            scene.collect()
            writer.go_on(2)
        took_over(scene, writer)
        scene.verify_tidy(1)
        scene.verify_active()
        scene.verify()


def switch_steps() -> set[str]:
    """As the journal hears of them."""
    return {f"leaf-switch: {step}" for step in SWITCH}


@pytest.mark.one_in(2)
def test_the_collector_killed_at_its_requests(cow_format: str, site: Site) -> None:
    """At some of what it asks of the datapath; `test_qsd_leaf.py` has all of it for one format."""
    first, step = every(
        16 if cow_format == "vhd" else 40, f"requests of a leaf merge, {cow_format}"
    )
    saved = SavedScene(leaf_scene(site, cow_format))
    for number in itertools.count(first + 1, step):
        scene = saved.again()
        with Writer(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
            command = ("gc", "run", "--sr", scene.sr)
            cut_short = killed_at(scene.site, "sendto,sendmsg", number, *command, threads=True)
            scene.collect()
            writer.go_on(3)
        took_over(scene, writer)
        scene.verify_tidy(1)
        scene.verify_active()
        scene.verify()
        if not cut_short:
            break
    assert number > 1


@pytest.mark.one_in(4)
@pytest.mark.parametrize("step", ["unhide", "resume"])
def test_deactivation_after_the_collector_was_killed(
    step: str, cow_format: str, site: Site
) -> None:
    """What the guest was told is done is there, with the old leaf or the new one."""
    scene = leaf_scene(site, cow_format)
    with DurableWriter(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
        writer.go_on(3)
        killed.killed_at(site, scene.sr, f"leaf-switch: {step}")
        site.deactivate(scene.disk)
        writer.cut_off()
    scene.uri = site.activate(scene.disk)
    writer.check(content(scene.uri, SIZE))
    took_over(scene, writer)
    scene.collect()
    scene.verify_tidy(1)
    scene.verify()


AT = [
    "",
    *(f"leaf-switch: {step}" for step in SWITCH),
    "active-leaf-coalesce: switch",
    "active-leaf-coalesce: close",
]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("at", AT)
def test_the_datapath_dies(at: str, cow_format: str, site: Site) -> None:
    """What was flushed is there, whether the merge was given up by that or not."""
    scene = leaf_scene(site, cow_format)
    pid = scene.datapath_pid()
    with DurableWriter(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
        writer.go_on(3)
        collect_here(scene, lambda: kill(pid), at)
        writer.cut_off()
    assert entries(scene) == []
    scene.uri = site.activate(scene.disk)
    writer.check(content(scene.uri, SIZE))
    took_over(scene, writer)
    scene.collect()
    scene.verify_tidy(1)
    scene.verify_active()
    scene.verify(crashed=True)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("at", AT[::2])
def test_cancelled(at: str, cow_format: str, site: Site) -> None:
    """The collector is told to stop: the guest goes on before anybody else comes."""
    scene = leaf_scene(site, cow_format)

    def cancel() -> None:
        raise Cancelled("SIGTERM")

    with Writer(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
        writer.go_on(3)
        try:
            collect_here(scene, cancel, at)
        except Cancelled:
            assert at != "active-leaf-coalesce: switch"
        writer.go_on(3)
        assert no_mirror(scene)
        scene.collect()
        writer.go_on(3)
    took_over(scene, writer)
    scene.verify_tidy(1)
    scene.verify_active()
    scene.verify()


def no_mirror(scene: ActiveScene) -> bool:
    """Whether the datapath copies nothing."""
    for datapath in Datapaths(scene.site.repository(scene.sr).settings).kinds:
        if isinstance(datapath, MirroringDatapath):
            return all(datapath.mirror(served.disk) is None for served in datapath.served())
    return True


def test_a_leaf_that_must_shrink_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds is too much for a pause until it was merged downwards beside the guest."""
    monkeypatch.setattr(convergence, "FIRST_SPEED", SLOW)
    scene = large_scene(site, "vhd")
    steps: list[str] = []
    with Writer(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
        writer.go_on(5)
        collect_here(scene, lambda: steps.append("displace"), "snapshot: displace")
        writer.go_on(5)
    assert steps == ["displace"]
    took_over(scene, writer)
    scene.verify_tidy(1)
    scene.verify_active()
    scene.verify()


@pytest.mark.one_in(2)
def test_a_leaf_that_is_written_too_fast_is_left(
    cow_format: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up after some rounds; what is below it is merged, and the chain no longer."""
    scene = leaf_scene(site, cow_format)
    monkeypatch.setattr(convergence, "ROUND_SECONDS", 0.0)
    with Writer(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
        writer.go_on(5)
        with monkeypatch.context() as patched:
            patched.setattr(Speed, "budget", lambda self, pause: -1)
            report = scene.collect()
        assert [waiting["code"] for waiting in report["waiting"]] == ["busy-leaf"]  # type: ignore[attr-defined]
        scene.verify_tidy(2)
        writer.go_on(5)
        assert no_mirror(scene)
        assert len(leaf_steps(scene.collect())) == 1
    took_over(scene, writer)
    scene.verify_tidy(1)
    scene.verify_active()
    scene.verify()


@pytest.mark.one_in(2)
def test_a_pause_that_would_be_too_long_is_given_up(cow_format: str, site: Site) -> None:
    """Too little time even for the switch: users go on with the leaf that they had."""
    scene = leaf_scene(site, cow_format)
    site.configure(pause_seconds=0.0001)
    with Writer(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
        writer.go_on(5)
        report = scene.collect()
        assert [waiting["code"] for waiting in report["waiting"]] == ["busy-leaf"]  # type: ignore[attr-defined]
        writer.go_on(5)
        scene.verify_tidy(2)
        site.configure()
        assert len(leaf_steps(scene.collect())) == 1
    took_over(scene, writer)
    scene.verify_tidy(1)
    scene.verify_active()
    scene.verify()


@pytest.mark.one_in(2)
def test_it_gives_way_to_a_snapshot(cow_format: str, site: Site) -> None:
    scene = leaf_scene(site, cow_format)
    snapshot = until_asked_to_yield(scene, "vdi", "snapshot", scene.disk)["uuid"]
    scene.models[snapshot] = scene.models[scene.disk].copy()
    scene.write(7 * MIB, 4096, 8)
    scene.collect()
    scene.verify_tidy(3)
    scene.verify_active()
    scene.delete(snapshot)
    scene.collect()
    scene.verify_tidy(1)
    scene.verify()


def test_deactivation_in_the_middle(cow_format: str, site: Site) -> None:
    scene = leaf_scene(site, cow_format)
    collect_here(scene, lambda: site.deactivate(scene.disk))
    scene.verify()
    scene.collect()
    scene.verify_tidy(1)
    scene.verify()


def test_a_disk_whose_process_is_gone_is_merged_as_one_at_rest(cow_format: str, site: Site) -> None:
    """Its host key was left by a crash, and stays; the next activation finds the merged image."""
    scene = leaf_scene(site, cow_format)
    kill(scene.datapath_pid())
    (step,) = leaf_steps(scene.collect())
    assert step["through"] is None
    scene.verify_tidy(1)
    scene.uri = site.activate(scene.disk)
    scene.verify_active()
    scene.verify()


@pytest.mark.own_namespaces
def test_a_disk_that_is_shown_as_a_file_keeps_its_leaf(site: Site) -> None:
    """It cannot be paused; what is below its leaf is merged."""
    scene = leaf_scene_at_rest(site)
    site.configure(expose="fuse")
    site.sm("vdi", "activate", scene.disk)
    report = scene.collect()
    assert [waiting["code"] for waiting in report["waiting"]] == ["active-leaf"]  # type: ignore[attr-defined]
    scene.verify_tidy(2)
    scene.verify()


def leaf_scene_at_rest(site: Site) -> ActiveScene:
    """The same, with nobody using the disk."""
    scene = leaf_scene(site, "qcow2")
    site.deactivate(scene.disk)
    return scene
