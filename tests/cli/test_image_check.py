"""`sm image check`: the verdicts of qemu, over whole chains, as exit statuses."""

from __future__ import annotations

import shutil
from pathlib import Path

from sm.cowutil.vhd.util import VhdUtil
from sm.process import run
from tests.cli.image_files import MIB, mixed_chain, qcow2, sm, sm_text, write
from tests.cowutil.qcow2.images import qemu_check


def test_a_good_chain_is_0(tmp_path: Path) -> None:
    chain = mixed_chain(tmp_path)[:3]
    (tmp_path / "base.raw").open("r+b").truncate(7 * MIB)
    found = sm("check", chain[0].path)
    assert found["good"]
    assert not found["leaks"]
    assert [image["path"] for image in found["images"]] == [
        *(str(each.path) for each in chain),
        str(tmp_path / "base.raw"),
    ]
    assert all(image["corruptions"] == image["leaks"] == [] for image in found["images"])
    assert len(sm("check", chain[0].path, "--alone")["images"]) == 1


def test_leaks_alone_are_said_and_0(tmp_path: Path) -> None:
    image = qcow2(tmp_path / "a.qcow2", MIB)
    with image.path.open("r+b") as file:
        file.seek(2 * 65536 + 2 * 20)  # refcount of a cluster that nothing uses
        file.write(b"\x00\x01")
        file.truncate(21 * 65536)
    assert qemu_check(image.path) == (0, 1)
    found = sm("check", image.path)
    assert found["good"]
    assert found["leaks"]
    assert len(found["images"][0]["leaks"]) == 1
    code, text = sm_text("check", image.path)
    assert code == 0
    assert "leaks" in text
    assert "leak: " in text


def test_a_damaged_parent_is_3_unless_alone(tmp_path: Path) -> None:
    base = qcow2(tmp_path / "base.qcow2", MIB)
    write(base, "write -P 1 0 64k")
    child = qcow2(tmp_path / "child.qcow2", MIB, parent=base)
    with base.path.open("r+b") as file:
        file.seek(2 * 65536)
        file.write(bytes(65536))  # no cluster counts as used any more
    assert qemu_check(base.path) != (0, 0)
    found = sm("check", child.path, code=3)
    assert [bool(image["corruptions"]) for image in found["images"]] == [False, True]
    assert "DAMAGED" in sm_text("check", child.path)[1]
    assert sm("check", child.path, "--alone")["good"]


def test_a_parent_that_is_none_is_3(tmp_path: Path) -> None:
    base = qcow2(tmp_path / "base.qcow2", MIB)
    child = qcow2(tmp_path / "child.qcow2", MIB, parent=base)
    base.path.write_bytes(b"rubbish" * 1000)
    found = sm("check", child.path, code=3)
    assert found["images"][1]["corruptions"]
    base.path.unlink()
    found = sm("check", child.path, code=3)
    assert "base.qcow2" in found["images"][0]["corruptions"][0]
    assert sm("check", base.path, code=1)["error"]


def test_a_damaged_vhd_is_3(tmp_path: Path) -> None:
    path = tmp_path / "a.vhd"
    VhdUtil(run).create(path, 4 * MIB)
    assert sm("check", path)["good"]
    copy = tmp_path / "b.vhd"
    shutil.copy(path, copy)
    with copy.open("r+b") as file:
        file.seek(600)
        file.write(b"\xff" * 40)
    found = sm("check", copy, code=3)
    assert len(found["images"][0]["corruptions"]) == 1
