"""All hostile images."""

from __future__ import annotations

from tests.hostile.case import Hostile
from tests.hostile.qcow2_headers import headers
from tests.hostile.qcow2_large import large
from tests.hostile.qcow2_tables import tables
from tests.hostile.vhd_cases import cases

HOSTILE_IMAGES = 364
"""At least so many; none may be lost by accident."""


def corpus() -> list[Hostile]:
    """Each image once."""
    return [*headers(), *tables(), *large(), *cases()]
