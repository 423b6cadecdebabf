"""What a disk has after the power of its guest was cut."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.lvm.outside.power_writer import BLOCK
from tests.support.uml.guest import How, run
from tests.support.uml.setup import Setup

pytestmark = pytest.mark.world


def test_synced_data_is_there_and_unsynced_is_gone(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"0" * 4 * BLOCK)
    command = [sys.executable, "-m", "tests.lvm.outside.power_writer"]
    ended = run(command, Setup(disks=(disk,)))
    assert ended.how is How.POWER_CUT, ended
    assert ended.status is None
    assert ended.stdout == b"written\n"
    assert disk.read_bytes() == b"s" * BLOCK + b"0" * 3 * BLOCK
