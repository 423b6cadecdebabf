"""A command killed before a call that changes a name or makes a change last; in a soak before each.

Afterwards the next command must find an SR whose old disks read as before, with the command's
change there as a whole or not at all.
"""

from __future__ import annotations

import pytest

from tests.sm.commands import subjects
from tests.support.every_call import meet
from tests.support.failing import KILL
from tests.support.site import Site


@pytest.mark.one_in(2)
def test_killed_commands(cow_format: str, site: Site) -> None:
    attempts, places = meet(subjects(site, cow_format), [KILL], f"killed commands, {cow_format}")
    print(f"{attempts} commands killed at {places} places")
    assert attempts
