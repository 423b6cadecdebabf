"""Disks in use on LVM SRs: the tests of merges and of leaves in use, unchanged.

`make test` runs some of all of them with all their parameters, others for the next commit.
"""

from __future__ import annotations

import pytest

from tests.gc.leaf_in_use.test_active_leaf import (  # noqa: F401 - what is tried here
    test_a_disk_whose_process_is_gone_is_merged_as_one_at_rest,
    test_a_leaf_is_merged_while_its_guest_writes,
    test_a_leaf_that_is_written_too_fast_is_left,
    test_a_leaf_that_must_shrink_first,
    test_a_pause_that_would_be_too_long_is_given_up,
    test_cancelled,
    test_deactivation_after_the_collector_was_killed,
    test_deactivation_in_the_middle,
    test_it_gives_way_to_a_snapshot,
    test_marks_outlast_what_comes_after,
    test_the_datapath_dies,
)
from tests.gc.merges.test_online import (  # noqa: F401 - what is tried here
    test_a_deleted_snapshot_goes_while_the_guest_writes,
    test_a_leaf_that_is_only_read_waits_for_its_end_of_use,
    test_a_run_below_an_active_disk_is_merged_at_once,
    test_a_snapshot_ends_a_merge_below_its_disk,
    test_activation_ends_an_offline_merge,
    test_deactivation_in_the_middle_of_a_merge,
    test_marks_of_inner_images_outlast_later_merges,
    test_the_datapath_dies_in_a_commit,
    test_two_disks_in_use_above_one_image,
)

pytestmark = [pytest.mark.world, pytest.mark.one_in(20, across="file")]
