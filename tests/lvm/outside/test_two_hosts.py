"""Two guests with one disk are two hosts with one LUN."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lvm.outside.host_a import BLOCK, MIB
from tests.support.uml.two_hosts import run_two

pytestmark = pytest.mark.world


def test_a_volume_of_one_host_is_seen_by_the_other(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("xb") as made:
        made.truncate(64 * MIB)
    folder = tmp_path / "meeting"
    folder.mkdir()
    a, b = run_two(("tests.lvm.outside.host_a", "tests.lvm.outside.host_b"), disk, folder)
    assert a == {"size": 20 * MIB, "answer": "b" * BLOCK}
    assert b == {
        "seen": ["volume"],
        "content": "a" * BLOCK,
        "before": 8 * MIB,
        "size": 20 * MIB,
        "added": "e" * BLOCK,
    }


def test_the_failure_of_one_ends_both(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))  # too small for what host_a makes
    with pytest.raises(AssertionError, match="too small") as failed:
        run_two(("tests.lvm.outside.host_a", "tests.lvm.outside.host_b"), disk, tmp_path)
    assert "waited" not in str(failed.value)
