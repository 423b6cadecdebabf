"""The guest's side of a virtual disk in the demo: write a file system into it, and read it out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from sm.cowutil.base import ImageRef
from sm.cowutil.chain import ChainReader
from sm.cowutil.registry import Formats
from sm.cowutil.vhd.block_file import Access, open_file
from sm.cowutil.vhd.writer import ImageWriter
from sm.process import run

BLOCK = 64 << 10
SECONDS = 300.0


def changed_ranges(before: Path, after: Path) -> Iterator[tuple[int, int]]:
    """Offset and length of each run of 64 KiB blocks that differ between two files."""
    size = after.stat().st_size
    start: int | None = None
    with before.open("rb") as old, after.open("rb") as new:
        for offset in range(0, size, BLOCK):
            differs = old.read(BLOCK) != new.read(BLOCK)
            if differs and start is None:
                start = offset
            elif not differs and start is not None:
                yield start, offset - start
                start = None
    if start is not None:
        yield start, size - start


def write(image: ImageRef, source: Path, ranges: Iterator[tuple[int, int]]) -> int:
    """Write ranges of the file `source` to the same place on the disk; returns the bytes."""
    if image.format == "vhd":
        return _write_vhd(image.path, source, ranges)
    written = 0
    commands: list[str] = []
    with TemporaryDirectory() as folder, source.open("rb") as file:
        for number, (offset, length) in enumerate(ranges):
            piece = Path(folder, str(number))
            piece.write_bytes(os.pread(file.fileno(), length, offset))
            commands += ["-c", f"write -q -s {piece} {offset} {length}"]
            written += length
        run(["qemu-io", "-f", image.format, *commands, str(image.path)], timeout=SECONDS)
    return written


def _write_vhd(path: Path, source: Path, ranges: Iterator[tuple[int, int]]) -> int:
    written = 0
    file = open_file(path, Access.WRITE)
    try:
        writer = ImageWriter(file)
        with source.open("rb") as data:
            for offset, length in ranges:
                data.seek(offset)
                writer.write(offset, memoryview(data.read(length)))
                written += length
        writer.commit()
    finally:
        file.close()
    return written


def read(chain: Sequence[ImageRef], size: int, target: Path) -> None:
    """Write the first `size` bytes of the disk into the file `target`.

    QCOW2 is read by qemu. qemu takes a differencing VHD for a whole disk and shows zeroes for its
    parents, so VHD chains are read by our own reader.
    """
    if chain[0].format == "qcow2":
        run(
            ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(chain[0].path), str(target)],
            timeout=SECONDS,
        )
    else:
        formats = Formats(run)
        with ExitStack() as stack, target.open("wb") as file:
            layers = [
                stack.enter_context(formats.get(image.format).open_layer(image.path))
                for image in chain
            ]
            reader = ChainReader(layers, layers[0].virtual_size)
            for offset in range(0, size, 16 << 20):
                file.write(reader.pread(offset, min(16 << 20, size - offset)))
    os.truncate(target, size)
