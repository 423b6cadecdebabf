"""The hidden mark: how it gets into a header, and that qemu keeps it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageUnsupported
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.header import Extension, Header, read_header
from sm.cowutil.qcow2.mark import planned_writes, write_mark
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.util import Qcow2Util
from sm.process import run
from tests.cowutil.qcow2.images import BY_NAME, alone, content, qemu, qemu_check, qemu_info, qemu_io


def header_of(path: Path) -> Header:
    with Source(path) as source:
        return read_header(source)


def others(header: Header) -> list[tuple[int, bytes]]:
    return [(e.type, e.data) for e in header.extensions if e.type != layout.EXT_HIDDEN]


def foreign(folder: Path, *options: str, parent: str = "parent.qcow2") -> Path:
    """An image with a parent, a bitmap and an extension that nobody knows, but no mark."""
    path = folder / "foreign"
    create = ("qemu-img", "create", "-q", "-f", "qcow2", *options)
    qemu(*create, "-u", "-b", parent, "-F", "qcow2", path, "4M")
    return path


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        ("-o", "compat=1.1"),
        ("-o", "compat=0.10"),
        ("-o", "compat=1.1,cluster_size=4096"),
        ("-o", "compat=1.1,extended_l2=on"),
    ],
)
def test_every_crash_leaves_the_old_or_the_new_header(
    options: tuple[str, ...], hidden: bool, tmp_path: Path
) -> None:
    path = foreign(tmp_path, *options, parent="p" * 300)
    before, plain = header_of(path), path.read_bytes()
    with Source(path) as source:
        writes = list(planned_writes(source, before, hidden))
    assert len(writes) >= 2
    for count in range(len(writes) + 1):
        done = bytearray(plain)
        for offset, data in writes[:count]:
            done[offset : offset + len(data)] = data
        path.write_bytes(done)
        after = header_of(path)
        assert after.parent == before.parent
        assert others(after) == others(before)
        assert qemu_info(path)["backing-filename"] == "p" * 300
        assert after.hidden == (hidden and count == len(writes))
    assert header_of(path).extension(layout.EXT_HIDDEN) is not None


def test_a_flip_writes_one_byte(tmp_path: Path) -> None:
    util, path = Qcow2Util(run), tmp_path / "a"
    util.create(path, 1 << 20)
    before = path.read_bytes()
    util.set_hidden(path, True)
    after = path.read_bytes()
    mark = header_of(path).extension(layout.EXT_HIDDEN)
    assert isinstance(mark, Extension)
    assert len(mark.data) == 8
    assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [
        mark.offset
    ]
    assert after[mark.offset - 8 : mark.offset + 8] == struct.pack(">IIQ", 0x76617465, 8, 1 << 56)
    util.set_hidden(path, False)
    assert path.read_bytes() == before


def test_the_mark_is_there_from_the_start(tmp_path: Path) -> None:
    util = Qcow2Util(run)
    util.create(tmp_path / "a", 1 << 20)
    util.snapshot(tmp_path / "b", ImageRef(tmp_path / "a", "qcow2"), 1 << 20)
    for name in "ab":
        assert header_of(tmp_path / name).extension(layout.EXT_HIDDEN) is not None
        assert qemu_check(tmp_path / name) == (0, 0)


def test_qemu_keeps_the_mark(tmp_path: Path) -> None:
    util, path = Qcow2Util(run), tmp_path / "a"
    util.create(path, 1 << 20)
    util.set_hidden(path, True)
    qemu("qemu-img", "rebase", "-u", "-b", "x" * 200, "-F", "raw", alone(path))
    assert util.info(path).hidden
    qemu("qemu-img", "resize", "-q", alone(path), "8M")
    assert util.info(path).hidden
    qemu("qemu-img", "rebase", "-u", "-b", "", alone(path))
    qemu("qemu-img", "amend", "-f", "qcow2", "-o", "lazy_refcounts=on", path)
    qemu("qemu-img", "bitmap", "--add", path, "name")
    qemu_io(path, "write -P 1 0 1M")
    child = tmp_path / "child"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", child)
    qemu_io(child, "write -P 2 1M 1M")
    qemu("qemu-img", "commit", "-q", "-d", child)
    qemu("qemu-img", "check", "-q", "-r", "all", path)
    header = header_of(path)
    assert header.hidden
    assert header.extension(layout.EXT_BITMAPS) is not None
    assert content(path)[: 2 << 20] == b"\x01" * (1 << 20) + b"\x02" * (1 << 20)


def test_bitmaps_and_data_survive_an_insertion(tmp_path: Path) -> None:
    path = BY_NAME["plain"].make(tmp_path)
    qemu("qemu-img", "bitmap", "--add", path, "name")
    expected = content(path)
    write_mark(path, True)
    assert qemu_info(path)["format-specific"]["data"]["bitmaps"][0]["name"] == "name"
    assert content(path) == expected
    assert qemu_check(path) == (0, 0)


def test_no_room_is_refused_and_nothing_written(tmp_path: Path) -> None:
    path = foreign(tmp_path, "-o", "compat=0.10,cluster_size=512", parent="p" * 410)
    before = path.read_bytes()
    with pytest.raises(ImageUnsupported, match="without room"):
        write_mark(path, True)
    assert path.read_bytes() == before
