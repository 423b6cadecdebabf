"""The chain reader against qemu, above all where members have different sizes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sm.cowutil.base import ImageFormat, ImageRef
from sm.cowutil.chain import ChainReader
from sm.cowutil.extents import Extents, Kind
from sm.cowutil.registry import Formats
from sm.process import run

MIB = 1 << 20
FORMATS = Formats(run)


def described(chain: Sequence[ImageRef]) -> str:
    node: dict[str, object] | None = None
    for member in reversed(chain):
        file = {"driver": "file", "filename": str(member.path)}
        node = {"driver": member.format, "file": file, **({"backing": node} if node else {})}
    return "json:" + json.dumps(node)


def qemu(*argv: str) -> None:
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "failed" not in ended.stdout, ended.stdout


def image(folder: Path, name: str, size: int, options: str = "", form: str = "qcow2") -> ImageRef:
    path = folder / name
    extra = ["-o", options] if options else []
    qemu("qemu-img", "create", "-q", "-f", form, *extra, str(path), str(size))
    return ImageRef(path, form)


def write(member: ImageRef, *commands: str) -> None:
    """Write into one image as if it had no parent: partial clusters are filled with zeros."""
    qemu("qemu-io", *(part for each in commands for part in ("-c", each)), described([member]))


def content(chain: Sequence[ImageRef]) -> bytes:
    out = chain[0].path.with_suffix(".out")
    qemu("qemu-img", "convert", "-O", "raw", described(chain), str(out))
    return out.read_bytes()


@contextmanager
def reader(chain: Sequence[ImageRef], size: int | None = None) -> Iterator[ChainReader]:
    with ExitStack() as stack:
        formats: list[ImageFormat] = [FORMATS.get(member.format) for member in chain]
        layers = [
            stack.enter_context(form.open_layer(member.path))
            for form, member in zip(formats, chain, strict=True)
        ]
        yield ChainReader(layers, size or layers[0].virtual_size)


@pytest.fixture(params=["", "cluster_size=512", "cluster_size=2M", "extended_l2=on"])
def mixed(request: pytest.FixtureRequest, tmp_path: Path) -> list[ImageRef]:
    """Four members, uppermost first: the second is short, the last one is raw and odd in size."""
    base = image(tmp_path, "base", 3 * MIB + 512, form="raw")
    write(base, f"write -P 1 0 {3 * MIB + 512}")
    low = image(tmp_path, "low", 8 * MIB, request.param)
    write(low, "write -P 2 1M 5M", "write -z 2M 64k", "write -P 3 7M 1M")
    middle = image(tmp_path, "middle", 5 * MIB)
    write(middle, "write -P 4 512k 128k", f"write -P 5 {5 * MIB - 65536} 64k")
    top = image(tmp_path, "top", 8 * MIB)
    write(top, "write -P 6 64k 192k", "write -P 7 6M 64k", "write -z 1M 64k")
    return [top, middle, low, base]


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_a_chain_reads_as_in_qemu(mixed: list[ImageRef], first: int) -> None:
    chain = mixed[first:]
    expected = content(chain)
    with reader(chain) as disk:
        assert disk.pread(0, disk.virtual_size) == expected[: disk.virtual_size]


def test_a_short_member_hides_what_its_parents_hold(mixed: list[ImageRef]) -> None:
    assert content(mixed)[5 * MIB : 5 * MIB + 512] == bytes(512)
    assert content(mixed[2:])[5 * MIB : 5 * MIB + 512] == b"\x02" * 512
    with reader(mixed) as disk:
        assert disk.pread(5 * MIB, 512) == bytes(512)
        beyond = disk.extents().clip(5 * MIB, 8 * MIB)
        assert beyond == Extents.of([(6 * MIB, 6 * MIB + 65536)])


def test_reads_at_any_place(mixed: list[ImageRef]) -> None:
    expected = content(mixed)
    with reader(mixed) as disk:
        for offset in (0, 1, 511, 65535, 300_001, MIB - 7, 5 * MIB - 3, 8 * MIB - 1):
            for length in (0, 1, 2, 513, 70_000):
                stop = min(offset + length, 8 * MIB)
                assert disk.pread(offset, stop - offset) == expected[offset:stop]


def test_reads_beyond_the_end_are_refused(mixed: list[ImageRef]) -> None:
    with reader(mixed) as disk:
        for offset, length in ((8 * MIB, 1), (8 * MIB - 1, 2), (-1, 1)):
            with pytest.raises(ValueError, match="not in a disk"):
                disk.pread(offset, length)


def test_a_larger_disk_than_its_images_ends_in_zeros(mixed: list[ImageRef]) -> None:
    with reader(mixed, 9 * MIB) as disk:
        assert disk.pread(8 * MIB, MIB) == bytes(MIB)


def test_extents_tell_data_from_zeros(tmp_path: Path) -> None:
    base = image(tmp_path, "base", 4 * MIB)
    write(base, "write -P 1 0 2M")
    top = image(tmp_path, "top", 4 * MIB)
    write(top, "write -z 64k 64k", "write -P 2 3M 64k")
    with reader([top, base]) as disk:
        assert disk.extents() == Extents.of([(0, 2 * MIB), (3 * MIB, 3 * MIB + 65536)])
        assert disk.extents(Kind.ZERO) == Extents.of([(65536, 131072)])
        data = [(0, 65536), (131072, 2 * MIB), (3 * MIB, 3 * MIB + 65536)]
        assert disk.extents(Kind.DATA) == Extents.of(data)


def test_an_odd_raw_parent_ends_in_zeros(tmp_path: Path) -> None:
    base = image(tmp_path, "base", MIB + 512, form="raw")
    write(base, f"write -P 1 0 {MIB + 512}")
    top = image(tmp_path, "top", 2 * MIB)
    expected = b"\x01" * (MIB + 512) + bytes(MIB - 512)
    assert content([top, base]) == expected
    with reader([top, base]) as disk:
        assert disk.pread(0, 2 * MIB) == expected
