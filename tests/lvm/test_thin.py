"""Thin volumes that grow while they are written, through both datapaths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.datapath.clients import content, qemu_io
from tests.lvm.conftest import MIB, LvmSite, made_site
from tests.support import guest
from tests.support.lvm.loop import LoopDisk

SIZE = 96 * MIB


@pytest.fixture
def thin(tmp_path: Path, loop_disk: Callable[[int], LoopDisk]) -> Iterator[LvmSite]:
    """A site of thin SRs."""
    yield from made_site(tmp_path, loop_disk, "thin")


def volume_size(site: LvmSite, sr: str, disk: str, image_format: str) -> int:
    return site.repository(sr).store.volume(disk, image_format).size


def test_a_fast_writer_never_fails(thin: LvmSite, cow_format: str) -> None:
    sr = thin.create_sr()
    disk = thin.create_vdi(sr, cow_format, SIZE)
    uri = thin.activate(disk)
    assert volume_size(thin, sr, disk, cow_format) <= 32 * MIB
    qemu_io(uri, *(f"write -P {n // 8 + 1} {n * MIB} {MIB}" for n in range(80)), "flush")
    assert volume_size(thin, sr, disk, cow_format) >= 80 * MIB
    data = b"".join(bytes([n + 1]) * (8 * MIB) for n in range(10)).ljust(SIZE, b"\0")
    assert content(uri, SIZE) == data
    thin.deactivate(disk)
    assert guest.content(thin.chain(sr, disk)) == data
    assert guest.check_clean(thin.chain(sr, disk)) == []
