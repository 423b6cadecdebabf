"""Fixtures that many tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leftovers import end_processes
from tests.support.site import NewSite, Site
from tests.support.tiers import left_out


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two workers for each CPU: tests wait for disks and for timers, too."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this tier does not run."""
    others = left_out(items)
    if others:
        config.hook.pytest_deselected(items=[item for item in items if item in others])
        items[:] = [item for item in items if item not in others]


@pytest.fixture(autouse=True)
def _no_process_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """End every process that still works below the folder of a test: datapaths outlive commands."""
    folder = str(request.getfixturevalue("tmp_path")) if "tmp_path" in request.fixturenames else ""
    yield
    if folder:
        end_processes(folder)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty storage manager."""
    return Site(tmp_path)


@pytest.fixture
def new_site(tmp_path: Path) -> NewSite:
    """For tests that need several."""
    return lambda name: Site(tmp_path / name)


@pytest.fixture(params=["qcow2", "vhd"])
def cow_format(request: pytest.FixtureRequest) -> str:
    """Each copy-on-write format."""
    return str(request.param)
