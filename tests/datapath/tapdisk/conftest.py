"""A tapdisk for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datapath.tapdisk.fixture import Tapdisk, kinds, make


@pytest.fixture(params=kinds())
def tapdisk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tapdisk]:
    """The double, and a real tapdisk where there is one; what it runs ends with the test."""
    found = make(request.param, tmp_path)
    yield found
    found.end()
