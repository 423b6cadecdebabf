"""A volume group that two hosts share: two kernels, one disk, one pool, TLS between the hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lvm.outside.shared_group import play

pytestmark = pytest.mark.world


def test_two_hosts_merge_through_each_other(tmp_path: Path) -> None:
    play(tmp_path, "qcow2_in_use_on_the_other", "vhd_in_use_on_the_other")
