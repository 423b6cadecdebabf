"""The drivers whose storage any machine has; `tests/lvm` tries the others in a guest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.contract.place import FolderPlace, Place
from tests.drivers.contract.suite import *  # noqa: F403 - the suite
from tests.drivers.contract.toy import MemoryPlace

# What others mount meanwhile must not be taken for ours: all mounts are compared.
pytestmark = pytest.mark.own_namespaces


@pytest.fixture(params=[FolderPlace, MemoryPlace])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each kind of storage."""
    made = request.param(tmp_path)
    yield made
    made.close()
