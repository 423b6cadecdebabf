"""Fixtures of tests that cut the power."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def memory_given_back() -> Iterator[None]:
    """What a test recorded refers to itself, and every fork of this process would pay for it."""
    yield
    gc.collect()
