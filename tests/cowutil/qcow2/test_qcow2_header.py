"""Headers: what is read, what is refused, and with which words."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from sm.cowutil.base import ParentLink
from sm.cowutil.errors import (
    ImageCorrupt,
    ImageError,
    ImageNotRecognised,
    ImageUnsafe,
    ImageUnsupported,
)
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.header import Header, read_header
from sm.cowutil.qcow2.source import Source
from tests.cowutil.qcow2.images import BY_NAME, MIB, VARIANTS, qemu, qemu_info


def header_of(path: Path) -> Header:
    with Source(path) as source:
        return read_header(source)


def fresh(folder: Path, *options: str) -> Path:
    path = folder / "image"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", *options, path, "64M")
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_the_fields_are_those_that_qemu_tells(variant: object, tmp_path: Path) -> None:
    path = BY_NAME[variant.name].make(tmp_path)  # type: ignore[attr-defined]
    header, told = header_of(path), qemu_info(path)
    specific = told["format-specific"]["data"]
    assert header.size == told["virtual-size"]
    assert header.cluster_size == told["cluster-size"]
    assert header.version == {"0.10": 2, "1.1": 3}[specific["compat"]]
    assert 1 << header.refcount_order == specific["refcount-bits"]
    assert header.extended == specific.get("extended-l2", False)
    assert header.snapshot_count == len(told.get("snapshots", []))
    assert header.parent is None
    assert header.marks == ()
    assert not header.hidden


def test_reading_a_header_loads_no_numpy(tmp_path: Path) -> None:
    path = fresh(tmp_path)
    program = (
        "import sys; from pathlib import Path; from sm.cowutil.registry import Formats;"
        "from sm.process import run;"
        f"Formats(run).get('qcow2').info(Path({str(path)!r}));"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("parent.qcow2", "parent.qcow2"),
        ("./parent", "parent"),
        ("père €", "père €"),
        ("a,b", "a,b"),
    ],
)
def test_plain_parent_names(given: str, name: str, tmp_path: Path) -> None:
    path = fresh(tmp_path, "-u", "-b", given, "-F", "qcow2")
    assert header_of(path).parent == ParentLink(name, "qcow2")


@pytest.mark.parametrize(
    "given",
    [
        "/etc/passwd",
        "folder/file",
        "../file",
        "././file",
        "..",
        ".",
        "./",
        'json:{"driver":"nbd"}',
        "nbd:localhost:10809",
        "file:name",
        "a\nb",
        "a\x1bb",
    ],
)
def test_other_parent_names_are_refused_and_named(given: str, tmp_path: Path) -> None:
    path = fresh(tmp_path, "-u", "-b", "x" * len(given.encode()), "-F", "raw")
    (offset,) = struct.unpack_from(">Q", path.read_bytes(), layout.BACKING_OFFSET_FIELD)
    patch(path, offset, given.encode())
    with pytest.raises(ImageUnsafe) as caught:
        header_of(path)
    assert repr(given.removeprefix("./")) in str(caught.value)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = fresh(tmp_path, "-u", "-b", "xxxx", "-F", "raw")
    (offset,) = struct.unpack_from(">Q", path.read_bytes(), layout.BACKING_OFFSET_FIELD)
    for raw in (b"a\xff\xfeb", b"a\0bc"):
        patch(path, offset, raw)
        with pytest.raises(ImageUnsafe):
            header_of(path)


def test_an_empty_parent_name_is_refused(tmp_path: Path) -> None:
    path = fresh(tmp_path, "-u", "-b", "xxxx", "-F", "raw")
    patch(path, layout.BACKING_OFFSET_FIELD + 8, bytes(4))
    with pytest.raises(ImageUnsafe):
        header_of(path)


def test_a_parent_without_a_format(tmp_path: Path) -> None:
    path = fresh(tmp_path, "-u", "-b", "parent", "-F", "raw")
    header = header_of(path)
    found = header.extension(layout.EXT_BACKING_FORMAT)
    assert found is not None
    patch(path, found.offset - 8, b"\x12\x34\x56\x78")  # now an unknown extension
    assert header_of(path).parent == ParentLink("parent", None)


def test_marks(tmp_path: Path) -> None:
    path = fresh(tmp_path)
    patch(path, layout.INCOMPATIBLE_FIELD + 7, b"\x03")
    assert header_of(path).marks == ("dirty", "corrupt")


@pytest.mark.parametrize("bit", [2, 5, 17, 40, 63])
def test_unknown_features_are_refused_by_name(bit: int, tmp_path: Path) -> None:
    path = fresh(tmp_path)
    patch(path, layout.INCOMPATIBLE_FIELD, (1 << bit).to_bytes(8, "big"))
    with pytest.raises(ImageUnsupported) as caught:
        header_of(path)
    expected = "external data file" if bit == 2 else f"feature bit {bit}"
    assert expected in str(caught.value)


def test_the_name_of_a_feature_comes_from_the_image(tmp_path: Path) -> None:
    path = fresh(tmp_path)
    table = header_of(path).extension(layout.EXT_FEATURE_NAMES)
    assert table is not None
    patch(path, table.offset, b"\x00\x09" + b"time travel\x07".ljust(46, b"\0"))
    patch(path, layout.INCOMPATIBLE_FIELD, (1 << 9).to_bytes(8, "big"))
    with pytest.raises(ImageUnsupported, match=r"'time travel\?'"):
        header_of(path)


@pytest.mark.parametrize("method", [1, 2])
def test_encryption_is_refused(method: int, tmp_path: Path) -> None:
    path = fresh(tmp_path)
    patch(path, layout.SIZE_FIELD + 8, method.to_bytes(4, "big"))
    with pytest.raises(ImageUnsupported, match="encryption"):
        header_of(path)


def test_an_external_data_file_is_refused(tmp_path: Path) -> None:
    path = fresh(tmp_path, "-o", f"data_file={tmp_path / 'data'}")
    with pytest.raises(ImageUnsupported, match="external data file"):
        header_of(path)


FORBIDDEN = [
    (layout.BACKING_OFFSET_FIELD, 8, 64, "backing name offset"),
    (layout.BACKING_OFFSET_FIELD, 8, 65537, "backing name offset"),
    (layout.CLUSTER_BITS_FIELD, 4, 8, "cluster bits"),
    (layout.CLUSTER_BITS_FIELD, 4, 22, "cluster bits"),
    (layout.CLUSTER_BITS_FIELD, 4, 0xFFFFFFFF, "cluster bits"),
    (layout.SIZE_FIELD, 8, 1 << 62, "L1 table size"),
    (layout.SIZE_FIELD, 8, (1 << 64) - 1, "L1 table size"),
    (layout.L1_SIZE_FIELD, 4, 0xFFFFFFFF, "L1 table size"),
    (layout.L1_SIZE_FIELD, 4, 4 * MIB + 1, "L1 table size"),
    (layout.L1_SIZE_FIELD, 4, 4 * MIB, "L1 table offset"),
    (layout.L1_SIZE_FIELD, 4, 0, "L1 table size"),
    (layout.L1_OFFSET_FIELD, 8, 0, "L1 table offset"),
    (layout.L1_OFFSET_FIELD, 8, 512, "L1 table offset"),
    (layout.L1_OFFSET_FIELD, 8, 1 << 40, "L1 table offset"),
    (layout.REFCOUNT_OFFSET_FIELD, 8, 1, "refcount table offset"),
    (layout.REFCOUNT_OFFSET_FIELD, 8, 1 << 63, "refcount table offset"),
    (layout.REFCOUNT_CLUSTERS_FIELD, 4, 0, "refcount table size"),
    (layout.REFCOUNT_CLUSTERS_FIELD, 4, 129, "refcount table size"),
    (layout.SNAPSHOT_COUNT_FIELD, 4, 65537, "snapshot count"),
    (layout.SNAPSHOT_OFFSET_FIELD, 8, 1, "snapshot table offset"),
    (layout.REFCOUNT_ORDER_FIELD, 4, 7, "refcount order"),
    (layout.HEADER_LENGTH_FIELD, 4, 103, "header length"),
    (layout.HEADER_LENGTH_FIELD, 4, 65537, "header length"),
    (layout.COMPRESSION_TYPE, 1, 1, "compression type"),
]


@pytest.mark.parametrize(("offset", "width", "value", "field"), FORBIDDEN)
def test_forbidden_values_are_refused_naming_the_field(
    offset: int, width: int, value: int, field: str, tmp_path: Path
) -> None:
    path = fresh(tmp_path)
    patch(path, offset, value.to_bytes(width, "big"))
    with pytest.raises(ImageCorrupt) as caught:
        header_of(path)
    assert caught.value.field == field
    assert str(caught.value.offset) in str(caught.value)


def test_an_extension_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = fresh(tmp_path)
    first = header_of(path).extensions[0]
    patch(path, first.offset - 4, (65536).to_bytes(4, "big"))
    with pytest.raises(ImageCorrupt, match="header extension"):
        header_of(path)


def test_a_long_parent_name_is_refused(tmp_path: Path) -> None:
    path = fresh(tmp_path, "-u", "-b", "x" * 1023, "-F", "raw")
    parent = header_of(path).parent
    assert parent is not None
    assert parent.name == "x" * 1023
    patch(path, layout.BACKING_OFFSET_FIELD + 8, (1024).to_bytes(4, "big"))
    with pytest.raises(ImageCorrupt, match="1024"):
        header_of(path)


@pytest.mark.parametrize("length", [0, 3, 4, 71, 72, 103, 104, 200, 65536, 196608])
def test_a_file_that_ends_early_is_refused(length: int, tmp_path: Path) -> None:
    path = fresh(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ImageError) as caught:
        header_of(path)
    assert isinstance(caught.value, ImageNotRecognised if length < 4 else ImageCorrupt)
