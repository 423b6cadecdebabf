"""A tapdisk for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datapath.tapdisk.active import configure
from tests.datapath.tapdisk.fixture import PATIENCE, Tapdisk, kinds, make
from tests.support.site import Site


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test with the double, and with a real tapdisk where one is named and can do it."""
    if "tapdisk" in metafunc.fixturenames:
        only_double = metafunc.definition.get_closest_marker("double_only") is not None
        metafunc.parametrize("tapdisk", ["double"] if only_double else kinds(), indirect=True)


@pytest.fixture
def tapdisk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tapdisk]:
    """A double or a real tapdisk; what it runs ends with the test."""
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
