"""More of what may become of the master of a shared volume group while a leaf is switched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lvm.outside.shared_group import play

pytestmark = pytest.mark.world


def test_the_guest_waits_for_the_master_and_goes_on(tmp_path: Path) -> None:
    play(
        tmp_path,
        "master_service_killed_before",
        "master_service_killed_after",
        "master_service_stopped",
    )


def test_a_disk_is_used_on_one_host_after_the_other(tmp_path: Path) -> None:
    play(tmp_path, "in_use_on_one_after_the_other")
