"""What tapdisk does wrong while the collector merges below a disk in use: no byte is ever lost.

What is on the storage in the end is read by qemu.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sm.datapath.tapdisk.control import Control
from sm.datapath.tapdisk.wire import Kind
from tests.datapath.tapdisk.active import (
    IMAGES_LEFT,
    merges,
    run_scene,
    verify_at_rest,
    verify_closed,
    verify_served,
)
from tests.datapath.tapdisk.fixture import PATIENCE, SOON_UNANSWERED, Tapdisk, is_free
from tests.gc import crash_child
from tests.gc.active import ActiveScene
from tests.gc.killed import killed_at
from tests.gc.merges.test_online import collect_here, until_asked_to_yield
from tests.support.patience import until
from tests.support.site import MIB, Refused, Site

pytestmark = pytest.mark.one_in(2)

CHILD = str(Path(crash_child.__file__))
SLOW = 1 << 16
"""Bytes a second: such a commit does not end within a test."""

NOT_DONE = {
    "success without a job": {"no_job": 1},
    "the same of a build that then knows no job": {"no_job": 1, "generation": 3},
    "failed": {"job_fails": 1, "speed": SLOW},
    "failed, and the end was not told": {"job_fails": 1, "speed": SLOW, "end_unseen": 1},
}
DEATHS = {"in the middle": {"dies": 1, "speed": SLOW}, "at the end": {"dies_at_end": 1}}


def verify_end(scene: ActiveScene) -> None:
    """With a tapdisk that does right, all is merged in the end and the disk can be used."""
    scene.write(6 * MIB, 4096, 7)
    scene.collect()
    verify_served(scene)
    scene.verify_tidy(IMAGES_LEFT)
    verify_closed(scene)


def let_go(scene: ActiveScene) -> None:
    """Wait until what held the data of a killed double has ended, and with it its locks."""
    until(lambda: all(map(is_free, scene.site.chain(scene.sr, scene.disk))))


@pytest.mark.double_only
@pytest.mark.parametrize("faults", NOT_DONE.values(), ids=NOT_DONE)
def test_a_merge_that_did_not_happen(
    tapdisk: Tapdisk, tapdisk_site: Site, faults: dict[str, int]
) -> None:
    scene = run_scene(tapdisk_site, "qcow2")
    before = tapdisk_site.chain(scene.sr, scene.disk)
    tapdisk.misbehave(**faults)
    report = scene.collect()
    assert merges(report) == []
    assert [waiting["code"] for waiting in report["waiting"]] == ["failed"]
    assert tapdisk_site.chain(scene.sr, scene.disk) == before
    verify_served(scene)
    tapdisk.misbehave()
    verify_end(scene)


@pytest.mark.double_only
@pytest.mark.parametrize("deleted", [1, 2])
def test_an_end_before_the_end_keeps_everything(
    tapdisk: Tapdisk, tapdisk_site: Site, deleted: int
) -> None:
    """The disk says merged, tapdisk says not all: nothing is deleted, nor done while it runs."""
    scene = run_scene(tapdisk_site, "qcow2", deleted)
    kept = {image.path for image in tapdisk_site.chain(scene.sr, scene.disk)}
    tapdisk.misbehave(short_end=1)
    for _ in range(2):
        assert merges(scene.collect()) == []
        verify_served(scene)
    tapdisk.misbehave()
    scene.write(7 * MIB, 8192, 8)
    scene.collect()
    verify_served(scene)
    assert all(path.exists() for path in kept)
    tapdisk_site.deactivate(scene.disk)
    verify_at_rest(scene)
    assert merges(scene.collect()) == [deleted]
    scene.verify_tidy(IMAGES_LEFT)
    verify_closed(scene)


@pytest.mark.double_only
@pytest.mark.parametrize("deleted", [1, 2])
@pytest.mark.parametrize("faults", DEATHS.values(), ids=DEATHS)
def test_death(tapdisk: Tapdisk, tapdisk_site: Site, faults: dict[str, int], deleted: int) -> None:
    """Also when all was merged on disk, which proves nothing: what was not flushed may be gone."""
    scene = run_scene(tapdisk_site, "qcow2", deleted)
    before = tapdisk_site.chain(scene.sr, scene.disk)
    tapdisk.misbehave(**faults)
    assert merges(scene.collect()) == []
    let_go(scene)
    verify_at_rest(scene)
    tapdisk.misbehave()
    scene.uri = tapdisk_site.activate(scene.disk)
    assert tapdisk_site.chain(scene.sr, scene.disk) == before
    verify_served(scene)
    verify_end(scene)


@pytest.mark.double_only
def test_a_job_that_a_pause_ended(tapdisk: Tapdisk, tapdisk_site: Site) -> None:
    """Somebody pauses and resumes the disk beside us."""
    scene = run_scene(tapdisk_site, "qcow2")
    tapdisk.misbehave(speed=SLOW)
    control = Control(tapdisk.control / f"ctl{scene.datapath_pid()}", PATIENCE.answer)

    def pause() -> None:
        (listed,) = control.list()
        control.pause(listed.minor, PATIENCE.pause)
        control.resume(listed.minor, "", PATIENCE.resume)

    steps = collect_here(scene, pause)
    assert [step.done.action for step in steps] == ["delete"]
    verify_served(scene)
    tapdisk.misbehave()
    verify_end(scene)


@pytest.mark.double_only
def test_a_deactivation_ends_it(tapdisk: Tapdisk, tapdisk_site: Site) -> None:
    scene = run_scene(tapdisk_site, "qcow2")
    tapdisk.misbehave(speed=SLOW)
    collect_here(scene, lambda: tapdisk_site.deactivate(scene.disk))
    verify_at_rest(scene)
    tapdisk.misbehave()
    scene.uri = tapdisk_site.activate(scene.disk)
    verify_end(scene)


@pytest.mark.double_only
def test_a_snapshot_ends_it(tapdisk: Tapdisk, tapdisk_site: Site) -> None:
    scene = run_scene(tapdisk_site, "qcow2")
    tapdisk.misbehave(speed=2 * MIB)
    uuid = until_asked_to_yield(scene, "vdi", "snapshot", scene.disk)["uuid"]
    scene.models[uuid] = scene.models[scene.disk].copy()
    tapdisk.misbehave()
    scene.write(6 * MIB, 4096, 7)
    scene.collect()
    verify_served(scene)
    scene.verify_tidy(IMAGES_LEFT + 2)
    verify_closed(scene)


@pytest.mark.double_only
def test_a_tapdisk_that_hangs(
    tapdisk: Tapdisk, tapdisk_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it stands still: its guest is stuck, and nothing is touched until it was ended."""
    scene = run_scene(tapdisk_site, "qcow2")
    monkeypatch.setattr("sm.datapath.tapdisk.datapath.Patience", lambda: SOON_UNANSWERED)
    kept = {image.path for image in tapdisk_site.chain(scene.sr, scene.disk)}
    tapdisk.misbehave(query_hangs=1)
    for _ in range(2):
        assert merges(scene.collect()) == []
    assert tapdisk.requests(Kind.QUERY) == 1, "it hangs since it was asked"
    assert all(path.exists() for path in kept)
    with pytest.raises(Refused, match="had to be killed"):
        tapdisk_site.deactivate(scene.disk)
    let_go(scene)
    verify_at_rest(scene)
    tapdisk.misbehave()
    monkeypatch.setattr("sm.datapath.tapdisk.datapath.Patience", lambda: PATIENCE)
    tapdisk_site.deactivate(scene.disk)
    # The collector is still there, and the next to settle what it began.
    assert merges(scene.collect()) == [2]
    scene.uri = tapdisk_site.activate(scene.disk)
    verify_end(scene)


@pytest.mark.double_only
def test_the_collector_dies_while_tapdisk_copies(tapdisk: Tapdisk, tapdisk_site: Site) -> None:
    scene = run_scene(tapdisk_site, "qcow2")
    tapdisk.misbehave(speed=SLOW)
    collector = subprocess.Popen([sys.executable, CHILD, scene.sr], env=tapdisk_site.environment)
    until(lambda: tapdisk.requests(Kind.COMMIT) == 1)
    collector.kill()
    collector.wait()
    tapdisk.misbehave()
    verify_served(scene)
    verify_end(scene)


@pytest.mark.parametrize(
    ("number", "step"), [(5, "coalesce: relink"), (6, "coalesce: refresh"), (7, "remove")]
)
def test_the_collector_dies_when_all_is_copied(tapdisk_site: Site, number: int, step: str) -> None:
    """Before that is in its journal, before tapdisk is told, before the merged image goes."""
    scene = run_scene(tapdisk_site, "qcow2")
    assert killed_at(tapdisk_site, scene.sr, number).startswith(step)
    verify_served(scene)
    verify_end(scene)
