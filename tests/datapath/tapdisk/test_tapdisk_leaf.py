"""The leaf of a disk that a tapdisk serves, merged by a pause: it cannot mirror what is written."""

from __future__ import annotations

import pytest

from sm.datapath.tapdisk.wire import Kind
from sm.gc.leaf_in_use import convergence
from tests.datapath.clients import Writer
from tests.datapath.tapdisk.active import configure, verify_closed, verify_served
from tests.datapath.tapdisk.fixture import Tapdisk
from tests.gc.active import SIZE, ActiveScene
from tests.support.guest import Model
from tests.support.patience import patient
from tests.support.site import MIB, PAUSE_SECONDS, Site

SLOW = int(10 * MIB / PAUSE_SECONDS)
"""Bytes a second, with which the leaf is too large to be copied in a pause."""


def leaf_scene(site: Site, image_format: str) -> ActiveScene:
    """A deleted snapshot below a disk in use, which could be a single image."""
    scene = ActiveScene(site, image_format)
    scene.write(0, 3 * MIB, 1)
    doomed = scene.snapshot()
    scene.write(2 * MIB, 2 * MIB, 2)
    scene.delete(doomed)
    return scene


@pytest.mark.parametrize("speed", [convergence.FIRST_SPEED, SLOW])
def test_a_leaf_is_merged_under_a_writer(
    tapdisk: Tapdisk,
    tapdisk_site: Site,
    cow_format: str,
    speed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once, or when it was made small: QCOW2 through tapdisk, VHD beside it."""
    monkeypatch.setattr(convergence, "FIRST_SPEED", speed)
    scene = leaf_scene(tapdisk_site, cow_format)
    commits = tapdisk.requests(Kind.COMMIT)
    with Writer(scene.uri, bytes(scene.models[scene.disk].data)) as writer:
        writer.go_on(3)
        report = scene.collect()
        writer.go_on(3)
    done = report["done"]
    assert isinstance(done, list)
    assert [step["action"] for step in done] == ["delete", "leaf-coalesce"]
    assert done[1]["through"] == scene.disk
    assert done[1]["pause_seconds"] > 0
    shrunk = speed < convergence.MEASURED_BYTES and cow_format == "qcow2"
    assert (tapdisk.requests(Kind.COMMIT) > commits) == shrunk
    scene.models[scene.disk] = Model(SIZE, bytes(writer.data))
    verify_served(scene)
    scene.verify_tidy(1)
    verify_closed(scene)


@pytest.mark.double_only
def test_a_pause_that_cannot_be_taken_back(
    tapdisk: Tapdisk, tapdisk_site: Site, cow_format: str
) -> None:
    """Requests under way do not end: nothing is switched, and users go on once they have."""
    scene = leaf_scene(tapdisk_site, cow_format)
    tapdisk.misbehave(frozen_pause=1)
    configure(tapdisk_site, tapdisk, pause_seconds=patient(1))
    report = scene.collect()
    waiting = report["waiting"]
    assert isinstance(waiting, list)
    assert {each["code"] for each in waiting} <= {"failed", "held"}
    assert len(tapdisk_site.images(scene.sr)) == 2
    tapdisk.misbehave()
    configure(tapdisk_site, tapdisk)
    scene.collect()
    verify_served(scene)
    scene.write(5 * MIB, 4096, 9)
    scene.collect()
    verify_served(scene)
    scene.verify_tidy(1)
    verify_closed(scene)
