"""What `Qcow2Util` does beyond the contract: tool errors, sizes, refusals."""

from __future__ import annotations

import errno
import json
import subprocess
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import (
    ImageBusy,
    ImageCorrupt,
    ImageError,
    ImageUnsafe,
    ImageUnsupported,
    SizeOutOfRange,
)
from sm.cowutil.qcow2.sizing import full_size
from sm.cowutil.qcow2.util import Qcow2Util
from sm.process import run
from tests.cowutil.qcow2.images import MIB, alone, content, qemu, qemu_check, qemu_io
from tests.support import small_disk

UTIL = Qcow2Util(run)


def test_a_locked_image_is_busy(tmp_path: Path) -> None:
    path, parent = tmp_path / "a", tmp_path / "b"
    UTIL.create(path, MIB)
    UTIL.create(parent, MIB)
    holder = subprocess.Popen(
        ["qemu-io", alone(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        holder.stdin.write("read 0 512\n")
        holder.stdin.flush()
        holder.stdout.readline()
        with pytest.raises(ImageBusy):
            UTIL.resize(path, 2 * MIB)
        with pytest.raises(ImageBusy):
            UTIL.set_parent(path, ImageRef(parent, "qcow2"))
    finally:
        holder.communicate("quit\n")
    UTIL.resize(path, 2 * MIB)


@pytest.mark.own_namespaces
def test_a_full_disk_is_told_as_the_system_does(tmp_path: Path) -> None:
    folder = small_disk.mount(tmp_path / "small", megabytes=4)
    base, top = ImageRef(folder / "base", "qcow2"), ImageRef(folder / "top", "qcow2")
    UTIL.create(base.path, 8 * MIB)
    UTIL.snapshot(top.path, base, 8 * MIB)
    qemu_io(top.path, "write -P 1 0 1920k")
    with pytest.raises(OSError, match="No space") as caught:
        UTIL.coalesce([top, base], 1)
    assert caught.value.errno == errno.ENOSPC
    assert content(top.path) == b"\x01" * (1920 << 10) + bytes(8 * MIB - (1920 << 10))
    found = qemu_check(base.path)
    assert found is not None
    assert found[0] == 0


def test_other_failures_carry_the_words_of_the_tool(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a"
    with pytest.raises(ImageError, match="No such file"):
        UTIL.create(path, MIB)


@pytest.mark.parametrize("name", ["a:b", "a\nb"])
def test_parents_whose_names_would_be_refused_later(name: str, tmp_path: Path) -> None:
    parent = tmp_path / name
    qemu("qemu-img", "create", "-q", "-f", "raw", parent, "1M")
    with pytest.raises(ImageUnsafe):
        UTIL.snapshot(tmp_path / "child", ImageRef(parent, "raw"), MIB)
    assert not (tmp_path / "child").exists()


def test_parents_of_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageUnsupported):
        UTIL.snapshot(tmp_path / "child", ImageRef(tmp_path / "parent", "vhd"), MIB)


def test_a_larger_parent_is_refused(tmp_path: Path) -> None:
    UTIL.create(tmp_path / "a", MIB)
    UTIL.create(tmp_path / "b", 2 * MIB)
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(SizeOutOfRange):
        UTIL.set_parent(tmp_path / "a", ImageRef(tmp_path / "b", "qcow2"))
    assert (tmp_path / "a").read_bytes() == before


def test_a_resize_does_not_open_the_parent(tmp_path: Path) -> None:
    base, child = tmp_path / "base", tmp_path / "child"
    UTIL.create(base, MIB)
    UTIL.snapshot(child, ImageRef(base, "qcow2"), MIB)
    base.unlink()
    UTIL.resize(child, 2 * MIB)
    parent = UTIL.info(child).parent
    assert parent is not None
    assert (parent.name, parent.format) == ("base", "qcow2")


@pytest.mark.parametrize("size", [65536, MIB, 100 * MIB, 1 << 30, 100 << 30, 1 << 40, 16 << 40])
def test_the_full_size_is_at_least_what_qemu_measures(size: int) -> None:
    measure = ("qemu-img", "measure", "--output=json", "-O", "qcow2", "-o", "compat=1.1")
    told = json.loads(qemu(*measure, "--size", str(size)))["fully-allocated"]
    # L1 and refcount table are counted once more; qemu moves them when they grow.
    assert told < full_size(size) <= told + 6 * 65536


def test_used_size_is_the_end_of_what_qemu_uses(tmp_path: Path) -> None:
    path = tmp_path / "a"
    UTIL.create(path, 64 * MIB)
    qemu_io(path, "write -P 1 0 5M", "write -P 2 20M 1M", "discard 1M 1M")
    end = UTIL.used_size(path)
    qemu_info = json.loads(qemu("qemu-img", "check", "--output=json", alone(path)))
    assert end == qemu_info["image-end-offset"]
    expected = content(path)
    with path.open("r+b") as file:
        file.truncate(end)
    assert content(path) == expected
    assert qemu_check(path) == (0, 0)


def test_a_corrupt_table_is_refused_where_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "a"
    UTIL.create(path, 64 * MIB)
    with path.open("r+b") as file:
        file.seek(40)
        l1 = int.from_bytes(file.read(8), "big")
        file.seek(l1)
        file.write((1 << 50).to_bytes(8, "big"))
    for call in (UTIL.open_layer, UTIL.allocated_size, UTIL.allocated_extents):
        with pytest.raises(ImageCorrupt, match=f"L1 entry at byte {l1}"):
            call(path)
    assert not UTIL.check(path).clean
