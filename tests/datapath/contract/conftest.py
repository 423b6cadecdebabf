"""A datapath of each kind, whose processes end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datapath.contract.subjects import COMMITTING, MIRRORING, SUBJECTS, Subject


def _made(name: str, folder: Path) -> Iterator[Subject]:
    subject = SUBJECTS[name](folder)
    yield subject
    datapath = subject.datapath()
    for served in datapath.served():
        datapath.close(served.disk)


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    """Each datapath."""
    yield from _made(request.param, tmp_path)


@pytest.fixture(params=COMMITTING)
def committing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    """Each datapath that can merge images itself."""
    yield from _made(request.param, tmp_path)


@pytest.fixture(params=MIRRORING)
def mirroring(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    """Each datapath that can merge its leaf while it is written."""
    yield from _made(request.param, tmp_path)
