"""A pool of three hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.hosts import Pool


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """Three hosts that share an SR."""
    made = Pool(tmp_path)
    yield made
    made.close()
