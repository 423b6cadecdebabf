"""The scene that the tests of the doctor share."""

from __future__ import annotations

import pytest

from tests.doctor.scene import Scene
from tests.support.site import Site


@pytest.fixture
def scene(site: Site) -> Scene:
    """An SR with a disk that has content, and a snapshot of it."""
    return Scene(site)
