"""Which names of parents are taken from an image, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm.cowutil.errors import ImageUnsafe
from sm.cowutil.qcow2.backing import volume_name


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"base.qcow2", "base.qcow2"),
        (b"./base.qcow2", "base.qcow2"),
        (b"/dev/VG_XenStorage-1/QCOW2-2", "/dev/VG_XenStorage-1/QCOW2-2"),
    ],
)
def test_taken(raw: bytes, name: str) -> None:
    assert volume_name(Path("/images/child"), raw) == name


@pytest.mark.parametrize(
    "raw",
    [
        *(b"/dev/../etc", b"/dev/a/..", b"/dev/../..", b"/dev/sda", b"/dev//x", b"/dev/a/b/c"),
        *(b"/dev/a:b/c", b"/etc/passwd", b"../x", b"nbd:x", b"json:{}", b"\xff", b"a\nb"),
    ],
)
def test_refused(raw: bytes) -> None:
    with pytest.raises(ImageUnsafe):
        volume_name(Path("/images/child"), raw)
