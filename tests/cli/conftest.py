"""Commands that are ended by a key."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _can_be_interrupted() -> Iterator[None]:
    """Whoever starts the tests in the background has SIGINT ignored, by all of their processes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
