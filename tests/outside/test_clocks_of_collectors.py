"""A clock that is wrong for a while: what was noted meanwhile holds no collector for longer."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from typing import Any

import pytest

from sm.gc.service.worker import GLANCE_SECONDS
from sm.gc.state.ledger import Ledger
from sm.gc.state.status import State, status_path
from tests.gc.merges.test_crash import Scene
from tests.gc.running import collector, status
from tests.gc.service.test_supervisor import gone, worker
from tests.outside.test_collector import SLACK, YEAR, add_snapshot, remove
from tests.support.outside.clock import WrongClock
from tests.support.outside.disk import FailingDisk
from tests.support.patience import patient, until
from tests.support.site import Site

JUMPS = 6
"""Of the clock; a supervisor looks several times before a worker at rest says its next word."""


@pytest.fixture
def scene(site: Site, clock: WrongClock, disk: FailingDisk) -> Scene:
    """An SR with one disk, whose processes have the clock and the disk."""
    made = Scene(site, "vhd")
    site.surroundings = clock.environment | disk.environment
    return made


def pause_of(scene: Scene) -> dict[str, Any]:
    """What the pool has of the pause of an SR."""
    record = scene.site.repository(scene.sr).pool.sr_by_uuid(scene.sr)
    return dict(json.loads(record.sm_config["gc-paused"]))


def test_a_failure_is_tried_again_in_time(
    scene: Scene, clock: WrongClock, disk: FailingDisk
) -> None:
    site = scene.site
    snapshot = add_snapshot(scene, 0)
    clock.shift(days=365)
    with collector(site, "--sr", scene.sr):
        fault = disk.fail("fsync", errno.EIO, names="store/*.vhd")
        scene.delete(snapshot)
        failures = Ledger(site.root / "gc.db").failures
        until(lambda: failures(scene.sr), "a merge that fails, and is noted")
        assert fault.met
        disk.heal()
        clock.right()

    with collector(site, "--sr", scene.sr):

        def waits() -> float | None:
            found = [each.next_attempt for each in status(site, scene.sr).waiting]
            return found[0] if found else None

        until(waits, "the time of the next attempt")
        assert abs((waits() or 0.0) - time.time()) < SLACK


def test_a_pause_is_as_long_as_it_was_to_be(scene: Scene, clock: WrongClock) -> None:
    site = scene.site
    clock.shift(days=365)
    site.result(site.start("gc", "pause", "--sr", scene.sr, "--for", "1h"))
    clock.right()
    assert pause_of(scene)["until"] > time.time() + YEAR - SLACK
    with collector(site, "--sr", scene.sr):
        until(lambda: status(site, scene.sr).state is State.PAUSED, "the pause")
        until(lambda: pause_of(scene)["since"] < time.time() + SLACK, "its true beginning")
        found = pause_of(scene)
        assert found["until"] == pytest.approx(found["since"] + 3600)
        assert status(site, scene.sr).state is State.PAUSED


def test_the_quiet_time_after_an_attach_ends(scene: Scene, clock: WrongClock) -> None:
    site = scene.site
    snapshot = add_snapshot(scene, 0)
    site.sm("sr", "detach", scene.sr)
    site.configure(gc_quiet_seconds=1)
    clock.shift(days=365)
    site.result(site.start("sr", "attach", scene.sr))
    clock.right()
    with collector(site):
        remove(scene, snapshot, images=1)
    scene.verify_tidy(1)


def test_a_worker_at_rest_is_not_taken_for_hung(scene: Scene, clock: WrongClock) -> None:
    site = scene.site
    seconds = 2 * GLANCE_SECONDS + patient(0.5)
    site.configure(gc_quiet_seconds=0, gc_hang_seconds=seconds)
    said = status_path(site.root / "run", scene.sr)
    with collector(site):
        until(lambda: status(site, scene.sr).state is State.IDLE, "rest")
        first = worker(site, scene.sr)
        # No sooner is it judged at all.
        judged = time.monotonic() + seconds
        until(lambda: time.monotonic() > judged, "its age")
        for number in range(1, JUMPS + 1):
            clock.shift(days=number)
            there = time.time() + number * 86400 - SLACK
            until(lambda moment=there: said.stat().st_mtime > moment, "a word")
        assert worker(site, scene.sr) == first


def test_a_worker_that_hangs_is_found_though_the_clock_goes_back(
    scene: Scene, clock: WrongClock
) -> None:
    site = scene.site
    site.configure(gc_quiet_seconds=0, gc_hang_seconds=patient(7))
    with collector(site):
        until(lambda: status(site, scene.sr).state is State.IDLE, "rest")
        hung = worker(site, scene.sr)
        assert hung is not None
        os.kill(hung, signal.SIGSTOP)
        clock.shift(days=-365)
        until(lambda: gone(hung), "its end", 60)
        clock.right()
        until(lambda: worker(site, scene.sr), "another worker")
