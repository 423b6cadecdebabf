"""Disks in use on LVM SRs: the tests of merges below and of leaves in use, unchanged."""

from __future__ import annotations

from tests.gc.leaf_in_use.test_active_leaf import (
    test_a_leaf_is_merged_while_its_guest_writes,
    test_a_pause_that_would_be_too_long_is_given_up,
    test_deactivation_in_the_middle,
    test_it_gives_way_to_a_snapshot,
)
from tests.gc.merges.test_online import (
    test_a_deleted_snapshot_goes_while_the_guest_writes,
    test_a_run_below_an_active_disk_is_merged_at_once,
    test_a_snapshot_ends_a_merge_below_its_disk,
    test_activation_ends_an_offline_merge,
    test_deactivation_in_the_middle_of_a_merge,
    test_marks_of_inner_images_outlast_later_merges,
    test_two_disks_in_use_above_one_image,
)

__all__ = [
    "test_a_deleted_snapshot_goes_while_the_guest_writes",
    "test_a_leaf_is_merged_while_its_guest_writes",
    "test_a_pause_that_would_be_too_long_is_given_up",
    "test_a_run_below_an_active_disk_is_merged_at_once",
    "test_a_snapshot_ends_a_merge_below_its_disk",
    "test_activation_ends_an_offline_merge",
    "test_deactivation_in_the_middle",
    "test_deactivation_in_the_middle_of_a_merge",
    "test_it_gives_way_to_a_snapshot",
    "test_marks_of_inner_images_outlast_later_merges",
    "test_two_disks_in_use_above_one_image",
]
