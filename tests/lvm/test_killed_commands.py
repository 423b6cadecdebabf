"""Whole commands killed at every command of LVM and every record: all disks read as they must.

After each of them, when the volume group is changed and nothing says so yet, or before the next,
when that is noted. The next commands find the old disks as they were, the change as a whole or not
at all, and nothing else.

A soak has all moments, all commands, and all ways to lay out an SR. `test_killed_changes` has all
moments of what the volume store does for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sm.gc.collector import Collector
from tests.gc.merges.test_collector_faults import subject
from tests.gc.merges.test_crash import leaf_scene, pull_scene
from tests.lvm.conftest import LAYOUTS, LvmSite
from tests.lvm.killed import killing, moments
from tests.lvm.saved_group import SavedGroup
from tests.sm.commands import subjects
from tests.support.every_call import Subject
from tests.support.forked import command
from tests.support.tiers import SOAK

LEFT_TO_A_SOAK = {"clone"}
"""To make a clone is to make a snapshot that may be written."""


MERGED = [layout for layout in LAYOUTS if layout != ("thin", "vhd")]
"""The scenes write to images past the datapath, and nothing lets a thin VHD grow for them."""


def killed_everywhere(
    subject: Subject, step: int, use: Callable[[Subject], None] | None = None
) -> int:
    """Kill a command around each of its changes, or each `step`-th of them; returns how often.

    Where the volume group is ahead of what is noted, its disks are used before anything else.
    """
    kills = 0
    for number, after in moments(1 if SOAK else step):
        subject.saved.restore()
        prepare = killing(number, after=after)
        outcome = command(subject.site.environment, subject.arguments, prepare)
        try:
            if use is not None and after:
                use(subject)
            subject.verify(outcome, strict=True)
        except Exception as failed:
            failed.add_note(f"{subject.name} killed {'after' if after else 'before'} {number}")
            raise
        if not outcome.killed:
            break
        kills += 1
    return kills


@pytest.mark.parametrize(("allocation", "image_format"), LAYOUTS if SOAK else [("thick", "vhd")])
def test_commands(site: LvmSite, image_format: str) -> None:
    kills = 0
    for each in subjects(site, image_format, lambda _: SavedGroup(site)):
        if SOAK or each.name not in LEFT_TO_A_SOAK:
            kills += killed_everywhere(each, 4)
            print(f"{each.name}: {kills} kills until now")
    assert kills >= 10


def read_all(subject: Subject) -> None:
    """Read all disks, after what every command that uses one has done by a process of its own."""
    collector = Collector(subject.site.repository(subject.sr))
    with collector.alone():
        collector.recover()
    for uuid, data in subject.disks.items():
        subject.see(uuid, data)


@pytest.mark.parametrize("build", [leaf_scene, pull_scene] if SOAK else [leaf_scene])
@pytest.mark.parametrize(("allocation", "image_format"), MERGED if SOAK else [("thin", "qcow2")])
def test_runs_of_the_collector(build, site: LvmSite, image_format: str) -> None:
    each = subject(site, image_format, build, lambda _: SavedGroup(site))
    # Between two names a volume has neither; whoever uses a disk has that mended first.
    kills = killed_everywhere(replace(each, readable=False), 6, read_all)
    print(f"{each.name}: {kills} kills")
    assert kills >= 5
