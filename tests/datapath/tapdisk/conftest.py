"""A tapdisk for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datapath.tapdisk.active import configure
from tests.datapath.tapdisk.fixture import PATIENCE, Tapdisk, kinds, make
from tests.support.site import Site


@pytest.fixture(params=kinds())
def tapdisk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tapdisk]:
    """The double, and a real tapdisk where there is one; what it runs ends with the test."""
    found = make(request.param, tmp_path)
    yield found
    found.end()


@pytest.fixture
def tapdisk_site(tapdisk: Tapdisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A storage manager whose disks are served by it; it is asked often how a merge stands."""
    site = Site(tmp_path)
    configure(site, tapdisk)
    monkeypatch.setattr("sm.datapath.tapdisk.datapath.Patience", lambda: PATIENCE)
    return site
