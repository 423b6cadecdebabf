"""`sm image info`, and how every `sm image` command finds formats and parents."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.vhd.util import VhdUtil
from sm.process import run
from tests.cli.image_files import MIB, NO_ROOT, mixed_chain, qcow2, sm, sm_process, sm_text, write
from tests.cowutil.contract.subjects import tool
from tests.cowutil.qcow2.images import BY_NAME, qemu_info

KEYS = [
    *("path", "format", "format_from", "probed", "virtual_size", "block_size", "hidden", "parent"),
    *("marks", "allocated", "file_size", "disk_usage", "chain", "chain_depth", "chain_problem"),
    "details",
]


def vhd(path: Path, size: int) -> ImageRef:
    VhdUtil(run).create(path, size)
    return ImageRef(path, "vhd")


def vhd_child(path: Path, parent: ImageRef, size: int) -> ImageRef:
    VhdUtil(run).snapshot(path, parent, size)
    return ImageRef(path, "vhd")


def test_info_agrees_with_qemu(tmp_path: Path) -> None:
    chain = mixed_chain(tmp_path)
    found = sm("info", chain[0].path)
    assert list(found) == KEYS
    qemu = qemu_info(chain[0].path)
    assert found["virtual_size"] == qemu["virtual-size"]
    assert found["block_size"] == qemu["cluster-size"]
    assert found["disk_usage"] == qemu["actual-size"]
    assert found["parent"] == {"name": "mid.qcow2", "format": "qcow2"}
    assert found["allocated"] == 3 * (64 << 10) + (64 << 10)
    assert found["file_size"] == chain[0].path.stat().st_size
    expected = [{"path": str(each.path), "format": each.format} for each in chain]
    assert (found["chain"], found["chain_depth"], found["chain_problem"]) == (expected, 4, None)
    assert (found["format_from"], found["probed"]) == ("suffix", None)
    alone = sm("info", chain[0].path, "--alone")
    assert (alone["chain"], alone["chain_depth"]) == (None, None)
    code, text = sm_text("info", chain[0].path)
    assert code == 0
    assert "virtual_size: 12582912 (12 MiB)" in text.splitlines()
    assert "parent: mid.qcow2 (qcow2)" in text.splitlines()


def test_what_else_lives_in_a_qcow2_is_told(tmp_path: Path) -> None:
    path = BY_NAME["snapshots"].make(tmp_path)
    tool("qemu-img", "bitmap", "--add", "-g", "128k", "-f", "qcow2", str(path), "since")
    details = sm("info", path, "--format", "qcow2")["details"]
    assert [each["name"] for each in details["snapshots"]] == ["first", "second"]
    expected = {"name": "since", "granularity": 131072, "in_use": False, "recording": True}
    assert details["bitmaps"] == [expected]
    assert (details["version"], details["compression"]) == (3, "zlib")


def test_names_in_an_image_do_not_steer_the_terminal(tmp_path: Path) -> None:
    image = qcow2(tmp_path / "a.qcow2", MIB)
    tool("qemu-img", "snapshot", "-c", "red \x1b[31m", str(image.path))
    assert sm("info", image.path)["details"]["snapshots"][0]["name"] == "red \x1b[31m"
    code, text = sm_text("info", image.path)
    assert code == 0
    assert "\x1b" not in text
    assert "name=red ?[31m" in text


def test_a_vhd_chain_with_a_raw_base(tmp_path: Path) -> None:
    raw = tmp_path / "base.raw"
    raw.write_bytes(b"\x01" * (4 * MIB))
    parent = vhd_child(tmp_path / "parent.vhd", ImageRef(raw, "raw"), 4 * MIB)
    child = vhd_child(tmp_path / "child.vhd", parent, 6 * MIB)
    VhdUtil(run).set_hidden(parent.path, True)
    found = sm("info", child.path)
    assert [each["format"] for each in found["chain"]] == ["vhd", "vhd", "raw"]
    assert found["details"]["kind"] == "differencing"
    assert found["details"]["creator"] == "tap"
    assert sm("info", parent.path)["hidden"]
    assert sm("map", child.path)["extents"][0]["depth"] == 2


def test_nothing_is_made_and_nothing_written(tmp_path: Path) -> None:
    chain = mixed_chain(tmp_path)
    vhd(tmp_path / "a.vhd", 4 * MIB)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    for path in before:
        path.chmod(0o444)
    for action in ("info", "map", "check", "measure"):
        more = ["--target", "vhd"] if action == "measure" else []
        for path in (chain[0].path, tmp_path / "a.vhd"):
            ended = sm_process(action, path, *more)
            assert ended.returncode == 0, ended.stderr
            assert ended.stderr == b""
    ended = sm_process("cat", chain[0].path)
    assert (ended.returncode, len(ended.stdout)) == (0, 12 * MIB)
    assert before == {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()
    }
    assert not Path(NO_ROOT["SM_ROOT"]).exists()


def test_the_format_is_never_guessed(tmp_path: Path) -> None:
    image = qcow2(tmp_path / "disk.img", MIB)
    error = sm("info", image.path, code=1)["error"]
    assert "--format" in error["message"]
    assert "--probe" in error["message"]
    assert sm("info", image.path, "--format", "qcow2")["format_from"] == "option"
    assert sm("info", image.path, "--format", "raw")["virtual_size"] == image.path.stat().st_size
    sm("info", image.path, "--format", "qcow3", code=2)
    sm("info", image.path, "--format", "vhd", code=1)


def test_a_probe_says_what_it_found(tmp_path: Path) -> None:
    image = qcow2(tmp_path / "one.img", MIB)
    found = sm("info", image.path, "--probe")
    assert (found["format"], found["format_from"]) == ("qcow2", "probe")
    assert found["probed"] == {"magic": "QFI\xfb", "offset": 0}
    other = vhd(tmp_path / "two.img", 4 * MIB)
    ended = sm_process("map", other.path, "--probe")
    assert ended.returncode == 0
    assert b"probed" in ended.stderr
    assert b"'conectix' at byte 0" in ended.stderr
    error = sm("info", other.path, "--probe", "--format", "vhd", code=1)["error"]
    assert error["name"] == "InvalidArg"


@pytest.mark.parametrize("content", [b"", b"x", bytes(1 << 20)])
def test_raw_is_never_the_result_of_a_probe(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(content)
    assert "raw" in sm("info", path, "--probe", code=1)["error"]["message"]
    assert sm("info", path)["format"] == "raw"


def test_a_file_of_two_formats_is_refused_by_the_probe(tmp_path: Path) -> None:
    """A guest with a fixed VHD writes the header of a QCOW2 into its first sector."""
    path = tmp_path / "disk.img"
    argv = ("-f", "vpc", "-o", "subformat=fixed,force_size=on")
    tool("qemu-img", "create", "-q", *argv, str(path), str(4 * MIB))
    assert sm("info", path, "--probe")["details"]["kind"] == "fixed"
    with path.open("r+b") as file:
        file.write(b"QFI\xfb")
    message = sm("info", path, "--probe", code=1)["error"]["message"]
    assert "qcow2" in message
    assert "vhd" in message


def test_a_missing_parent_is_said(tmp_path: Path) -> None:
    chain = mixed_chain(tmp_path)
    chain[2].path.unlink()
    found = sm("info", chain[0].path)
    assert "low.qcow2" in found["chain_problem"]
    assert (len(found["chain"]), found["chain_depth"]) == (2, None)
    for action in ("map", "cat"):
        ended = sm_process(action, chain[0].path)
        assert ended.returncode == 1
        assert b"low.qcow2" in ended.stderr
        assert ended.stdout == b""
    assert sm_process("map", chain[0].path, "--alone").returncode == 0


def test_a_parent_of_unknown_format_is_not_guessed(tmp_path: Path) -> None:
    parent = qcow2(tmp_path / "parent.img", MIB)
    child = qcow2(tmp_path / "child.qcow2", MIB, parent=parent)
    assert sm("info", child.path)["chain_depth"] == 2
    content = child.path.read_bytes()
    at = content.index(b"\xe2\x79\x2a\xca")
    child.path.write_bytes(content[:at] + b"\x12\x34\x56\x78" + content[at + 4 :])
    found = sm("info", child.path)
    assert found["parent"] == {"name": "parent.img", "format": None}
    assert "which format" in found["chain_problem"]


def test_a_circle_ends(tmp_path: Path) -> None:
    first = qcow2(tmp_path / "a.qcow2", MIB)
    second = qcow2(tmp_path / "b.qcow2", MIB, parent=first)
    tool("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "b.qcow2", str(first.path))
    found = sm("info", second.path)
    assert "circle" in found["chain_problem"]
    assert len(found["chain"]) == 2
    assert sm("check", second.path, code=3)["good"] is False


def test_a_hard_link_is_the_same_image(tmp_path: Path) -> None:
    image = qcow2(tmp_path / "a.qcow2", MIB)
    os.link(image.path, tmp_path / "b.qcow2")
    tool("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "b.qcow2", str(image.path))
    assert "circle" in sm("info", image.path)["chain_problem"]


def test_a_chain_may_have_thirty_images(tmp_path: Path) -> None:
    parent = qcow2(tmp_path / "0.qcow2", MIB)
    for number in range(1, 31):
        parent = qcow2(tmp_path / f"{number}.qcow2", MIB, parent=parent)
    assert sm("info", tmp_path / "29.qcow2")["chain_depth"] == 30
    assert "more than 30" in sm("info", tmp_path / "30.qcow2")["chain_problem"]
    assert sm("check", tmp_path / "30.qcow2", code=3)["good"] is False


def test_a_parent_stays_in_the_folder(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    parent = qcow2(elsewhere / "parent.qcow2", MIB)
    child = folder / "child.qcow2"
    argv = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b")
    tool(*argv, str(parent.path), str(child))
    for action in ("info", "map"):
        assert "folder" in sm(action, child, code=1)["error"]["message"]
    (folder / "parent.qcow2").symlink_to(parent.path)
    shutil.copy(parent.path, folder / "real.qcow2")
    (folder / "inside.qcow2").symlink_to("real.qcow2")
    tool(*argv, "parent.qcow2", str(child))
    assert "out of its folder" in sm("info", child)["chain_problem"]
    tool(*argv, "inside.qcow2", str(child))
    assert sm("info", child)["chain_depth"] == 2


def test_what_is_no_image_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.qcow2")
    (tmp_path / "folder.raw").mkdir()
    (tmp_path / "short.vhd").write_bytes(b"conectix")
    for name in ("pipe.qcow2", "folder.raw", "short.vhd", "missing.raw"):
        for action in ("info", "map", "check"):
            document = json.loads(sm_text(action, tmp_path / name, "--json")[1])
            assert name in document["error"]["message"]


def test_zeroes_in_a_child_do_not_count_as_data(tmp_path: Path) -> None:
    base = qcow2(tmp_path / "base.qcow2", 4 * MIB)
    write(base, "write -P 1 0 2M")
    child = qcow2(tmp_path / "child.qcow2", 4 * MIB, parent=base)
    write(child, "write -z -u 0 1M")
    assert sm("info", child.path)["allocated"] == MIB
    assert sm("map", child.path, "--intervals")["data_clusters"] == [[16, 31]]
