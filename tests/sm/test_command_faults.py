"""A command in which one call fails that changes a name or makes a change last.

For some of these calls, as the commit chooses; for each in a soak.

The call is not carried out; the command goes on with the error. Afterwards all disks read as
before, and the change is there as a whole or not at all; and not at all if the command failed.
"""

from __future__ import annotations

import itertools
import random

import pytest

from tests.sm.commands import subjects
from tests.support.every_call import ERRORS, meet
from tests.support.killing import failing_below
from tests.support.site import Site
from tests.support.tiers import SEED, SOAK

BELOW = "pwrite64,fsync,fdatasync,ftruncate,fallocate,rename,unlink"


@pytest.mark.one_in(2)
def test_failing_commands(cow_format: str, site: Site) -> None:
    attempts, places = meet(subjects(site, cow_format), ERRORS, f"failing commands, {cow_format}")
    print(f"{attempts} calls failed at {places} places")
    assert attempts


@pytest.mark.one_in(2)
def test_a_sample_of_what_fails_below(cow_format: str, site: Site) -> None:
    """What SQLite and qemu-img call: one in 300 of a kind, in a soak one in 20."""
    injected, refused = 0, 0
    step = 20 if SOAK else 300
    first = 2 + random.Random(f"{SEED} {cow_format}").randrange(16)
    errors = itertools.cycle(("EIO", "ENOSPC", "EROFS"))
    for subject in subjects(site, cow_format):
        for number in itertools.count(first, step):
            subject.saved.restore()
            outcome, failed = failing_below(
                subject.site, BELOW, next(errors), number, *subject.arguments
            )
            # Several calls may have failed, some after the change was made.
            subject.verify(outcome, strict=False)
            if not failed:
                assert outcome.done
                break
            injected += 1
            refused += not outcome.done
    print(f"{injected} commands with failing calls below, {refused} of them refused")
    assert refused
