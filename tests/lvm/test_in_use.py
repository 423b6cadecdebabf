"""Disks in use on LVM SRs: the tests of merges and of leaves in use, unchanged.

Each of them runs with one format, here or in `test_in_use_vhd`, and with the last of its
parameters. A soak runs all with both formats; some run only there, see `LEFT_TO_A_SOAK`.
"""

from __future__ import annotations

from tests.gc.leaf_in_use.test_active_leaf import (  # noqa: F401 - what is tried here
    test_a_leaf_is_merged_while_its_guest_writes,
    test_cancelled,
    test_it_gives_way_to_a_snapshot,
    test_marks_outlast_what_comes_after,
)
from tests.gc.merges.test_online import (  # noqa: F401 - what is tried here
    test_a_run_below_an_active_disk_is_merged_at_once,
    test_activation_ends_an_offline_merge,
    test_deactivation_in_the_middle_of_a_merge,
    test_marks_of_inner_images_outlast_later_merges,
    test_the_datapath_dies_in_a_commit,
    test_two_disks_in_use_above_one_image,
)
from tests.lvm.conftest import one_format

cow_format = one_format("qcow2")
