"""Disks in use on LVM SRs whose images are VHDs; see `test_in_use`."""

from __future__ import annotations

import pytest

from tests.gc.leaf_in_use.test_active_leaf import test_a_leaf_is_merged_while_its_guest_writes
from tests.gc.merges.test_online import test_a_deleted_snapshot_goes_while_the_guest_writes

__all__ = [
    "test_a_deleted_snapshot_goes_while_the_guest_writes",
    "test_a_leaf_is_merged_while_its_guest_writes",
]


@pytest.fixture
def cow_format() -> str:
    """One format."""
    return "vhd"
