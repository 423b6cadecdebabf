"""Whole commands killed at every command of LVM and every record: all disks read as they must.

After each of them, when the volume group is changed and nothing says so yet, or before the next,
when that is noted. The next commands find the old disks as they were, the change as a whole or not
at all, and nothing else.

Some moments of some commands on an SR that is laid out in one of the ways, as the commit chooses; a
soak has all. `test_killed_changes` has moments of what the volume store does for them.
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
from tests.support.tiers import chosen

pytestmark = pytest.mark.world

MERGED = [layout for layout in LAYOUTS if layout != ("thin", "vhd")]
"""The scenes write to images past the datapath, and nothing lets a thin VHD grow for them."""


def killed_everywhere(
    subject: Subject, one_in: int, use: Callable[[Subject], None] | None = None
) -> int:
    """Kill a command around one in so many of its changes; returns how often.

    Where the volume group is ahead of what is noted, its disks are used before anything else.
    """
    kills = 0
    for number, after in moments(one_in, subject.name):
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


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("allocation", "image_format"), LAYOUTS)
def test_commands(site: LvmSite, image_format: str) -> None:
    kills = 0
    commands = subjects(site, image_format, lambda _: SavedGroup(site))
    for each in chosen(commands, 2, "commands killed on volumes"):
        kills += killed_everywhere(each, 5)
        print(f"{each.name}: {kills} kills until now")
    assert kills >= 2


def read_all(subject: Subject) -> None:
    """Read all disks, after what every command that uses one has done by a process of its own."""
    collector = Collector(subject.site.repository(subject.sr))
    with collector.alone():
        collector.recover()
    for uuid, data in subject.disks.items():
        subject.see(uuid, data)


@pytest.mark.one_in(6)
@pytest.mark.parametrize("build", [leaf_scene, pull_scene])
@pytest.mark.parametrize(("allocation", "image_format"), MERGED)
def test_runs_of_the_collector(build, site: LvmSite, image_format: str) -> None:
    each = subject(site, image_format, build, lambda _: SavedGroup(site))
    # Between two names a volume has neither; whoever uses a disk has that mended first.
    kills = killed_everywhere(replace(each, readable=False), 9, read_all)
    print(f"{each.name}: {kills} kills")
    assert kills >= 2
