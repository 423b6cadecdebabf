"""Fixtures that many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty storage manager."""
    return Site(tmp_path)


@pytest.fixture(params=["qcow2", "vhd"])
def cow_format(request: pytest.FixtureRequest) -> str:
    """Each copy-on-write format."""
    return str(request.param)
