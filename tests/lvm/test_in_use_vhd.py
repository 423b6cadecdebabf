"""Disks in use on LVM SRs whose images are VHDs; see `test_in_use`."""

from __future__ import annotations

from tests.gc.leaf_in_use.test_active_leaf import (  # noqa: F401 - what is tried here
    test_a_disk_whose_process_is_gone_is_merged_as_one_at_rest,
    test_a_leaf_is_merged_while_its_guest_writes,
    test_a_leaf_that_is_written_too_fast_is_left,
    test_a_leaf_that_must_shrink_first,
    test_a_pause_that_would_be_too_long_is_given_up,
    test_deactivation_after_the_collector_was_killed,
    test_deactivation_in_the_middle,
    test_the_datapath_dies,
)
from tests.gc.merges.test_online import (  # noqa: F401 - what is tried here
    test_a_deleted_snapshot_goes_while_the_guest_writes,
    test_a_leaf_that_is_only_read_waits_for_its_end_of_use,
    test_a_snapshot_ends_a_merge_below_its_disk,
)
from tests.lvm.conftest import one_format

cow_format = one_format("vhd")
