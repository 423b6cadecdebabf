"""`sm image map`: where the bytes of a disk are, over its whole chain.

A map may have hundreds of millions of rows. They stay in numpy arrays and become text some
thousands at a time.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sm.cli.image_chain import all_formats, choose, follow, opened
from sm.cli.image_commands import DATA
from sm.cli.image_output import new_file
from sm.cli.output import Output
from sm.cli.sizes import parse_size
from sm.cowutil.base import ImageRef, no_progress
from sm.cowutil.chain_map import HOLE, ChainMap, map_chain
from sm.cowutil.extents import Extents, Kind
from sm.errors import InvalidArgument

ROWS = 1 << 14
"""Rows that become text at once."""

BITS = 1 << 22
"""Bits of a bitmap that are worked out at once; a multiple of 8."""

MAX_BITS = 1 << 35
"""16 TiB in sectors: a crafted image may claim a disk of any size, and each block costs a bit."""

GRANULARITY = 64 << 10

TYPES = {HOLE: "hole", Kind.DATA: "data", Kind.ZERO: "zero", Kind.COMPRESSED: "compressed"}


def map_(output: Output, options: Namespace) -> None:
    """Where each byte of a disk is: image of the chain, kind, and place in its file."""
    if options.intervals and options.bitmap:
        raise InvalidArgument("--intervals and --bitmap exclude each other")
    unit = _granularity(options)
    formats = all_formats()
    image = choose(formats, options).image
    members = follow(formats, image, alone=options.alone).whole()
    block_size = formats.get(image.format).info(image.path).block_size
    with opened(formats, members) as layers:
        size = layers[0].virtual_size
        found = map_chain(layers, size)
    if options.intervals:
        _write_intervals(found.extents(*DATA), size, unit or _usual_unit(block_size))
    elif options.bitmap:
        data, unit = found.extents(*DATA), unit or GRANULARITY
        _write_bitmap(options.bitmap, data, size, unit, replace=options.force)
        document = {
            "bitmap": str(options.bitmap),
            "virtual_size": size,
            "granularity": unit,
            "bits": -(-size // unit),
        }
        output.result(document, "")
    elif output.as_json:
        _write_json(found, members, size)
    else:
        _write_text(found)


def _granularity(options: Namespace) -> int | None:
    if options.granularity is None:
        return None
    unit = parse_size(options.granularity)
    if unit < 512 or unit & (unit - 1):
        raise InvalidArgument(f"a granularity of {unit} is no power of two from 512 on")
    return unit


def _usual_unit(block_size: int) -> int:
    """The block size of the image, if it has blocks: not for raw, nor for a fixed VHD."""
    blocks = block_size > 512 and block_size & (block_size - 1) == 0 and block_size <= 2 << 20
    return block_size if blocks else GRANULARITY


def rows(found: ChainMap) -> Iterator[list[tuple[int, int, int | None, str, int | None]]]:
    """The map as Python values, in batches: start, length, depth, type, offset; None for -1."""
    names = [TYPES.get(kind, "") for kind in range(max(TYPES) + 1)]
    for first in range(0, len(found), ROWS):
        part = slice(first, first + ROWS)
        yield [
            (start, length, _place(depth), names[kind], _place(offset))
            for start, length, depth, kind, offset in zip(
                found.start[part].tolist(),
                found.length[part].tolist(),
                found.depth[part].tolist(),
                found.kind[part].tolist(),
                found.offset[part].tolist(),
                strict=True,
            )
        ]


def _place(number: int) -> int | None:
    return None if number < 0 else number


def _write_json(found: ChainMap, members: Sequence[ImageRef], size: int) -> None:
    images = [{"path": str(each.path), "format": each.format} for each in members]
    head = json.dumps({"virtual_size": size, "images": images}, ensure_ascii=False)
    sys.stdout.write(f'{head[:-1]}, "extents": [')
    between = "\n"
    for batch in rows(found):
        lines = ",\n".join(
            f'{{"start": {start}, "length": {length}, "depth": {_word(depth)}, "type": "{kind}",'
            f' "offset": {_word(offset)}}}'
            for start, length, depth, kind, offset in batch
        )
        sys.stdout.write(between + lines)
        between = ",\n"
    sys.stdout.write("\n]}\n")


def _word(number: int | None) -> str:
    return "null" if number is None else str(number)


def _write_text(found: ChainMap) -> None:
    sys.stdout.write(f"{'START':>18} {'LENGTH':>18} {'DEPTH':>5} {'TYPE':<10} {'OFFSET':>18}\n")
    for batch in rows(found):
        sys.stdout.writelines(
            f"{start:>18} {length:>18} {_cell(depth):>5} {kind:<10} {_cell(offset):>18}\n"
            for start, length, depth, kind, offset in batch
        )


def _cell(number: int | None) -> str:
    return "-" if number is None else str(number)


def _write_intervals(data: Extents, size: int, unit: int) -> None:
    """Blocks that hold data, as pairs of block numbers, both inclusive."""
    blocks = data.align(unit)
    head = {"virtual_size": size, "cluster_bits": unit.bit_length() - 1}
    sys.stdout.write(f'{json.dumps(head)[:-1]}, "data_clusters": [')
    for first in range(0, len(blocks), ROWS):
        part = slice(first, first + ROWS)
        starts = (blocks.starts[part] // unit).tolist()
        lasts = (blocks.ends[part] // unit - 1).tolist()
        pairs = ", ".join(f"[{start}, {last}]" for start, last in zip(starts, lasts, strict=True))
        sys.stdout.write(f"{', ' if first else ''}{pairs}")
    sys.stdout.write("]}\n")


def _write_bitmap(path: Path, data: Extents, size: int, unit: int, *, replace: bool) -> None:
    """One bit for each block, the first in the most significant bit of the first byte."""
    if size > MAX_BITS * unit:
        raise InvalidArgument(f"{size} bytes in blocks of {unit} are too many; raise --granularity")
    total = -(-size // (8 * unit))
    with new_file(path, replace=replace, total=total, progress=no_progress) as sink:
        for start in range(0, size, BITS * unit):
            sink.put(_packed(data, start, min(size, start + BITS * unit), unit))


def _packed(data: Extents, start: int, end: int, unit: int) -> bytes:
    first = int(np.searchsorted(data.ends, start, side="right"))
    last = int(np.searchsorted(data.starts, end, side="left"))
    near = Extents(data.starts[first:last] - start, data.ends[first:last] - start)
    return np.packbits(near.to_bitmap(unit, end - start)).tobytes()
