"""The collector as a whole process, on a disk that fills or fails, with a clock that is wrong."""

from __future__ import annotations

import errno
import itertools
import json
import time

import pytest

from tests.gc.merges.test_crash import Scene, coalesce_scene
from tests.gc.running import collector, history
from tests.support.killing import SM
from tests.support.outside.clock import WrongClock
from tests.support.outside.disk import FailingDisk
from tests.support.outside.programs import program
from tests.support.patience import until
from tests.support.saved import Saved
from tests.support.site import MIB, Site
from tests.support.tiers import SOAK, chosen, every

pytestmark = pytest.mark.one_in(2)

YEAR = 365 * 86400

SLACK = 3600
"""Seconds: what no test takes, and far less than the clock is wrong by."""

KIB = 1 << 10
BUDGETS = (0, 40 * KIB, 300 * KIB, 600 * KIB)
"""Bytes: the merge copies a mebibyte, and more where it cannot tell what is there already."""


def collect(scene: Scene) -> None:
    """`sm gc run` as a process, which may refuse, but in words."""
    argv = ("--json", "gc", "run", "--sr", scene.sr)
    ended = program(scene.site.environment, SM, *argv)
    assert "Traceback" not in ended.stderr, ended.stderr
    assert (ended.returncode == 1) == ("error" in json.loads(ended.stdout)), ended


def test_merges_on_a_disk_that_fills(cow_format: str, site: Site, disk: FailingDisk) -> None:
    """Every second amount, of which nobody is told before every second time; all in a soak."""
    scene, images = coalesce_scene(site, cow_format)
    saved = Saved(site)
    site.surroundings = disk.environment
    refused = 0
    for number, budget in chosen(enumerate(BUDGETS), 2, f"space for a merge, {cow_format}"):
        saved.restore()
        disk.fill_after(budget, told=number % 4 < 2)
        collect(scene)
        refused += disk.refused
        scene.verify()
        disk.heal()
        site.sm("gc", "run", "--sr", scene.sr)
        scene.verify_tidy(images)
    assert refused


def test_merges_with_a_failing_sync(cow_format: str, site: Site, disk: FailingDisk) -> None:
    """Two of those on the images' disk, others for the next commit; every one in a soak."""
    scene, images = coalesce_scene(site, cow_format)
    saved = Saved(site)
    site.surroundings = disk.environment
    failed = 0
    first, _ = every(4, f"syncs of a merge, {cow_format}")
    for number in itertools.count() if SOAK else (first + 1, first + 6):
        saved.restore()
        fault = disk.fail("fsync", errno.EIO, times=1, after=number, names="store/*")
        collect(scene)
        disk.heal()
        site.sm("gc", "run", "--sr", scene.sr)
        scene.verify_tidy(images)
        failed += fault.met
        if not fault.met:
            break
    assert failed >= 2


def test_a_clock_that_is_a_year_ahead_for_a_while(site: Site, clock: WrongClock) -> None:
    """A service that ran through it goes on, and what it did has its true duration."""
    scene = Scene(site, "vhd")
    first, second = (add_snapshot(scene, number) for number in range(2))
    site.surroundings = clock.environment
    with collector(site, "--sr", scene.sr):
        clock.shift(days=365)
        remove(scene, first, images=3)
        (job, *_) = history(site, scene.sr)
        assert abs(job.began - YEAR - time.time()) < SLACK
        clock.right()
        remove(scene, second, images=1)
    for job in history(site, scene.sr):
        assert 0 <= job.seconds < SLACK
    scene.verify_tidy(1)


def add_snapshot(scene: Scene, number: int) -> str:
    scene.write(number * MIB, MIB, number + 1)
    return scene.snapshot()


def remove(scene: Scene, snapshot: str, images: int) -> None:
    """Delete a snapshot, with a command that has the same clock, and wait until all is merged."""
    site = scene.site
    del scene.models[snapshot]
    site.result(site.start("vdi", "delete", snapshot))

    def merged() -> bool:
        entries = site.repository(scene.sr).journal.entries()
        return not entries and len(site.images(scene.sr)) == images

    until(merged, "the merge")
