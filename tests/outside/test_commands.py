"""Commands as whole processes on a disk that fills or fails: Python, SQLite and qemu-img at once.

The disk is good again afterwards. Then all disks read as before, and the change is there as a whole
or not at all.
"""

from __future__ import annotations

import errno
import itertools
import json

import pytest

from tests.sm.commands import subjects
from tests.support.every_call import Subject
from tests.support.forked import Outcome
from tests.support.killing import SM
from tests.support.outside.disk import FailingDisk
from tests.support.outside.programs import program
from tests.support.site import Site
from tests.support.tiers import SOAK, every

pytestmark = pytest.mark.one_in(2)

BUDGETS = (0, 8 << 10, 24 << 10, 72 << 10, 200 << 10, 600 << 10)
"""Bytes: for no file at all, for a record, for a part of a new image, for most of it."""

AMOUNTS = [(told, budget) for told in (False, True) for budget in BUDGETS]
"""Each also as space that vanishes only after somebody has looked how much there is."""


def run(subject: Subject) -> Outcome:
    """The command on its site, as a process."""
    ended = program(subject.site.environment, SM, "--json", *subject.arguments)
    assert "Traceback" not in ended.stderr, ended.stderr
    return Outcome(ended.returncode, json.loads(ended.stdout))


def test_a_disk_that_fills(cow_format: str, site: Site, disk: FailingDisk) -> None:
    """Each command has another amount, which the commit chooses; all of them in a soak."""
    ended, refused = 0, 0
    first, _ = every(len(AMOUNTS), f"amounts of space, {cow_format}")
    for number, subject in enumerate(subjects(site, cow_format)):
        site.surroundings = disk.environment
        amounts = AMOUNTS if SOAK else [AMOUNTS[(first + 5 * number) % len(AMOUNTS)]]
        for told, budget in amounts:
            subject.saved.restore()
            disk.fill_after(budget, told=told)
            outcome = run(subject)
            refused += disk.refused
            ended += not outcome.done
            disk.heal()
            # A full disk stays full to the end of the command, also for what would tidy up.
            subject.verify(outcome, strict=False)
    assert ended
    assert refused


def test_a_sync_that_fails_once(cow_format: str, site: Site, disk: FailingDisk) -> None:
    """One for each command, by whatever program; every one in a soak."""
    failed, refused = 0, 0
    later, _ = every(2, f"syncs of commands, {cow_format}")
    for first, subject in enumerate(subjects(site, cow_format)):
        site.surroundings = disk.environment
        for number in itertools.count() if SOAK else (2 * first + later,):
            subject.saved.restore()
            fault = disk.fail("fsync", errno.EIO, times=1, after=number)
            outcome = run(subject)
            disk.heal()
            subject.verify(outcome, strict=False)
            failed += fault.met
            refused += not outcome.done
            if not fault.met:
                assert outcome.done
                break
    assert failed >= 4
    assert refused
