"""`sm image cat`: the disk of a chain as guest bytes, or as a new image made in one pass."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from sm.cli.image_chain import all_formats, by_suffix, choose, endings, follow, opened
from sm.cli.image_commands import DATA, require_size, whole_sectors
from sm.cli.image_output import Sink, new_file, require_new
from sm.cli.output import Output
from sm.cli.sizes import parse_size
from sm.cowutil.base import ImageRef
from sm.cowutil.chain import ChainReader
from sm.cowutil.registry import Formats
from sm.errors import InvalidArgument

READ_BYTES = 4 << 20


def cat(output: Output, options: Namespace) -> None:
    """Write the disk to standard output, or into a new image without parents."""
    formats = all_formats()
    image = choose(formats, options).image
    members = follow(formats, image, alone=options.alone).whole()
    target = _target(formats, options)
    _refuse_contradictions(output, options, members)
    if target is None:
        _copy_bytes(output, options, formats, members)
    else:
        _copy_image(output, options, formats, members, target)


def _target(formats: Formats, options: Namespace) -> str | None:
    """The format to write; None for plain guest bytes on standard output."""
    if options.to or options.output is None:
        to: str | None = options.to
        return to
    name = by_suffix(formats, options.output)
    if name is None:
        raise InvalidArgument(
            f"the name of {options.output} does not end in {endings(formats)}; say --to"
        )
    return name


def _refuse_contradictions(output: Output, options: Namespace, members: Sequence[ImageRef]) -> None:
    part = options.offset is not None or options.length is not None
    if part and (options.output or options.to):
        raise InvalidArgument("--offset and --length are for plain bytes; an image holds all")
    if options.output is None:
        if output.as_json:
            raise InvalidArgument("--json needs --output: standard output is for the disk")
        if sys.stdout.isatty():
            raise InvalidArgument("a disk does not go to a terminal; use --output, or a pipe")
        return
    require_new(options.output, replace=options.force)
    for member in members:
        if options.output.exists() and options.output.samefile(member.path):
            raise InvalidArgument(f"{options.output} is what would be copied")


def _copy_bytes(
    output: Output, options: Namespace, formats: Formats, members: Sequence[ImageRef]
) -> None:
    with opened(formats, members) as layers:
        disk = ChainReader(layers, layers[0].virtual_size)
        offset = parse_size(options.offset) if options.offset is not None else 0
        length = disk.virtual_size - offset
        if options.length is not None:
            length = parse_size(options.length)
        if length < 0 or offset + length > disk.virtual_size:
            raise InvalidArgument(
                f"bytes {offset} to {offset + length} are not in a disk of {disk.virtual_size}"
            )
        with output.progress("reading") as progress:
            descriptor = sys.stdout.fileno()
            sink = Sink(descriptor, sparse=False, total=length, progress=progress)
            for piece in _pieces(disk, offset, offset + length):
                sink.put(piece)


def _pieces(disk: ChainReader, start: int, end: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(READ_BYTES, end - start)))
    for at in range(start, end, READ_BYTES):
        piece = buffer[: end - at]
        disk.read_into(at, piece)
        yield piece


def _copy_image(
    output: Output, options: Namespace, formats: Formats, members: Sequence[ImageRef], target: str
) -> None:
    images = formats.get(target)
    path: Path | None = options.output
    with opened(formats, members) as layers:
        disk = ChainReader(layers, whole_sectors(layers[0].virtual_size))
        require_size(images, disk.virtual_size)
        data = disk.extents(*DATA)
        total = images.measure(disk.virtual_size, data).required
        pieces = images.stream(disk.virtual_size, data, disk.read_into)
        with output.progress("copying") as progress:
            if path is None:
                sink = Sink(sys.stdout.fileno(), sparse=False, total=total, progress=progress)
                for piece in pieces:
                    sink.put(piece)
                return
            with new_file(path, replace=options.force, total=total, progress=progress) as sink:
                for piece in pieces:
                    sink.put(piece)
    document = {
        "output": str(path),
        "format": target,
        "virtual_size": images.info(path).virtual_size,
        "file_size": total,
    }
    output.result(document, "")
