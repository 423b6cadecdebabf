"""`sm image measure` against qemu-img and against images that are really written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.image_files import MIB, mixed_chain, qcow2, sm, sm_text, write
from tests.cowutil.contract.subjects import tool

KEYS = ["target", "virtual_size", "required", "fully_allocated", "volume"]


def qemu_measure(*argv: str) -> tuple[int, int]:
    found = json.loads(tool("qemu-img", "measure", "--output=json", *argv))
    return found["required"], found["fully-allocated"]


@pytest.mark.parametrize(
    "size", [512, 65536, 100 << 10, 512 * MIB, 512 * MIB + 512, 10 << 30, 2 << 40, 16 << 40]
)
def test_a_full_image_is_as_long_as_qemu_says(size: int) -> None:
    for target in ("qcow2", "raw"):
        found = sm("measure", "--size", str(size), "--target", target)
        assert list(found) == KEYS
        required, full = qemu_measure("--size", str(size), "-O", target)
        assert (found["virtual_size"], found["fully_allocated"]) == (size, full)
        # qemu counts the L2 tables of the full disk; a stream has only those that it needs.
        assert found["required"] <= required
        assert found["volume"] >= full


def test_a_disk_in_use_is_as_long_as_qemu_says(tmp_path: Path) -> None:
    """With data in each L2 table's part of the disk, nothing is left out."""
    image = qcow2(tmp_path / "a.qcow2", 1024 * MIB)
    write(image, "write -P 1 0 100k", "write -P 2 100M 64k", "write -P 3 600M 1M")
    found = sm("measure", image.path, "--target", "qcow2")
    expected = qemu_measure("-O", "qcow2", "-f", "qcow2", str(image.path))
    assert (found["required"], found["fully_allocated"]) == expected


@pytest.mark.parametrize("target", ["qcow2", "vhd", "raw"])
def test_the_measure_is_the_length_of_the_file(target: str, tmp_path: Path) -> None:
    chain = mixed_chain(tmp_path)
    out = tmp_path / f"out.{target}"
    found = sm("measure", chain[0].path, "--target", target)
    written = sm("cat", chain[0].path, "--output", out)
    assert out.stat().st_size == found["required"] == written["file_size"]
    assert found["required"] <= found["fully_allocated"] <= found["volume"]


@pytest.mark.parametrize("target", ["qcow2", "vhd"])
def test_an_empty_and_a_full_disk(target: str, tmp_path: Path) -> None:
    size = 7 * MIB + 512
    found = sm("measure", "--size", str(size), "--target", target)
    for name, content, key in (
        ("empty", b"", "required"),
        ("full", b"\x01" * size, "fully_allocated"),
    ):
        source, out = tmp_path / f"{name}.raw", tmp_path / f"{name}.{target}"
        with source.open("wb") as file:
            file.write(content)
            file.truncate(size)
        sm("cat", source, "--output", out)
        assert out.stat().st_size == found[key]


def test_a_full_qcow2_in_place_fits_the_volume(tmp_path: Path) -> None:
    found = sm("measure", "--size", "100MiB", "--target", "qcow2")
    image = qcow2(tmp_path / "a.qcow2", 100 * MIB)
    write(image, "write -P 1 0 100M")
    assert image.path.stat().st_size <= found["volume"]


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    image = qcow2(tmp_path / "a.qcow2", MIB)
    both = ("measure", image.path, "--size", "1G", "--target", "raw")
    assert sm(*both, code=1)["error"]["name"] == "InvalidArg"
    assert sm("measure", "--target", "raw", code=1)["error"]["name"] == "InvalidArg"
    large = ("measure", "--size", "3TiB", "--target", "vhd")
    assert sm(*large, code=1)["error"]["name"] == "VDISize"
    assert sm("measure", "--size", "0", "--target", "raw", code=1)["error"]["name"] == "VDISize"


def test_the_text_has_a_line_each() -> None:
    code, text = sm_text("measure", "--size", "1000", "--target", "raw")
    assert code == 0
    assert text.splitlines()[:2] == ["required: 1024", "fully allocated: 1024"]
