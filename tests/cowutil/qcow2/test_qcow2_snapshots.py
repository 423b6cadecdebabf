"""Internal snapshots: listed, and read as qemu reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm.cowutil.chain import ChainReader
from sm.cowutil.errors import ImageCorrupt, ImageError
from sm.cowutil.qcow2.header import read_header
from sm.cowutil.qcow2.layer import Qcow2Layer
from sm.cowutil.qcow2.snapshots import ENTRY, read_snapshots
from sm.cowutil.qcow2.source import Source
from tests.cowutil.qcow2.images import MIB, VARIANTS, qemu

WITH_SNAPSHOTS = [variant for variant in VARIANTS if variant.snapshots]


def content(path: Path, snapshot: str | None) -> bytes:
    """The disk, or a snapshot of it, as we read it."""
    with Qcow2Layer(path, snapshot) as layer:
        reader = ChainReader([layer], layer.virtual_size)
        return reader.pread(0, reader.virtual_size)


@pytest.mark.parametrize("variant", WITH_SNAPSHOTS, ids=lambda variant: variant.name)
def test_read_as_qemu_reads_them(variant, tmp_path: Path) -> None:
    path = variant.make(tmp_path)
    before = path.read_bytes()
    seen = set()
    for name in ("first", "second"):
        out = tmp_path / "out.raw"
        qemu("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-l", name, path, out)
        assert content(path, name) == out.read_bytes()
        seen.add(out.read_bytes())
    seen.add(content(path, None))
    assert len(seen) == 3
    assert content(path, "1") == content(path, "first")
    assert path.read_bytes() == before


def test_a_snapshot_from_before_a_resize_has_its_own_size(tmp_path: Path) -> None:
    path = WITH_SNAPSHOTS[0].make(tmp_path)
    qemu("qemu-img", "resize", "-q", "-f", "qcow2", path, str(9 * MIB))
    with Qcow2Layer(path, "first") as layer:
        assert layer.virtual_size == 4 * MIB
    with Qcow2Layer(path) as layer:
        assert layer.virtual_size == 9 * MIB


def test_unknown_and_damaged_snapshots_are_refused(tmp_path: Path) -> None:
    path = WITH_SNAPSHOTS[0].make(tmp_path)
    with pytest.raises(ImageError, match="no internal snapshot 'third'"):
        Qcow2Layer(path, "third")
    with Source(path) as source:
        header = read_header(source)
        assert [each.name for each in read_snapshots(source, header)[0]] == ["first", "second"]
    with path.open("r+b") as file:
        file.seek(header.snapshot_offset + ENTRY.size)
        file.seek(file.tell() + 8)  # the virtual size, behind the VM state's
        file.write((1 << 50).to_bytes(8, "big"))
    with pytest.raises(ImageCorrupt) as refused:
        Qcow2Layer(path, "first")
    assert refused.value.field == "snapshot L1 size"
