"""Disks in use on LVM SRs: tests of merges and of leaves in use, unchanged."""

from __future__ import annotations

import pytest

from tests.gc.leaf_in_use.test_active_leaf import (
    test_a_leaf_is_merged_while_its_guest_writes,
    test_it_gives_way_to_a_snapshot,
)
from tests.gc.merges.test_online import (
    test_a_run_below_an_active_disk_is_merged_at_once,
    test_activation_ends_an_offline_merge,
    test_two_disks_in_use_above_one_image,
)

__all__ = [
    "test_a_leaf_is_merged_while_its_guest_writes",
    "test_a_run_below_an_active_disk_is_merged_at_once",
    "test_activation_ends_an_offline_merge",
    "test_it_gives_way_to_a_snapshot",
    "test_two_disks_in_use_above_one_image",
]


@pytest.fixture
def cow_format() -> str:
    """One format: the other is in a file of its own, with fewer tests."""
    return "qcow2"
