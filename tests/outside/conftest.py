"""A disk and a clock that are injected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.outside.clock import WrongClock, wrong_clock
from tests.support.outside.disk import FailingDisk, failing_disk


@pytest.fixture
def clock() -> Iterator[WrongClock]:
    """A clock that is right at first."""
    with wrong_clock() as found:
        yield found


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FailingDisk]:
    """The disk below the folder of a test, a good one at first."""
    with failing_disk(tmp_path) as found:
        yield found
