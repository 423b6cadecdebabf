"""VHD chains: merging and reading, against dd of the same bytes on the same file system."""

from __future__ import annotations

import random
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path

from sm.cowutil.base import ImageRef
from sm.cowutil.chain import ChainReader
from sm.cowutil.registry import Formats
from sm.process import run as run_tool
from tests.bench.measure import Row, Target, in_turn
from tests.bench.workshop import Workshop
from tests.cowutil.vhd.vhd_support import open_disk

SIZE = 256 << 20
PIECE = 1 << 20
LEVELS = 3


def dd(source: Path, target: Path, *more: str) -> None:
    """Copy in pieces of 1 MiB."""
    subprocess.run(
        ["dd", f"if={source}", f"of={target}", "bs=1M", *more], check=True, capture_output=True
    )


def run(workshop: Workshop) -> list[Row]:
    """A base and children that hold the disk in turns of 16 MiB."""
    folder = workshop.folder / "vhd"
    folder.mkdir()
    vhd = Formats(run_tool).cow("vhd")
    base = folder / "base.vhd"
    chain = _chain(folder)
    refs = [ImageRef(path, "vhd") for path in chain]

    plain, copy = folder / "plain", folder / "copy"
    with ExitStack() as stack:
        layers = [stack.enter_context(vhd.open_layer(path)) for path in chain]
        reader = ChainReader(layers, SIZE)
        with plain.open("wb") as file:
            for offset in range(0, SIZE, PIECE):
                file.write(reader.pread(offset, PIECE))
        buffer = memoryview(bytearray(PIECE))

        def read() -> None:
            for offset in range(0, SIZE, PIECE):
                reader.read_into(offset, buffer)

        works = {"ours": read, "dd": lambda: dd(plain, Path("/dev/null"))}
        reading = in_turn(works, repeat=5)

    empty = base.read_bytes()

    def prepare() -> None:
        base.write_bytes(empty)
        copy.unlink(missing_ok=True)
        subprocess.run(["sync", "-f", str(folder)], check=True)

    works = {
        "ours": lambda: _merge(vhd.coalesce(refs, LEVELS)),
        "dd": lambda: dd(plain, copy, "conv=fsync"),
    }
    merging = in_turn(works, repeat=3, prepare=prepare)
    limit = Target.within(1.5)
    what = f"chain of {LEVELS + 1}, {SIZE >> 20} MiB"
    return [
        Row("vhd", f"read {what}", reading["ours"], "dd", reading["dd"], limit),
        Row("vhd", f"coalesce {what}", merging["ours"], "dd conv=fsync", merging["dd"], limit),
    ]


def _merge(copied: int) -> None:
    if copied != SIZE:
        raise AssertionError(f"{copied} bytes were merged instead of {SIZE}")


def _chain(folder: Path) -> list[Path]:
    """An empty base, and above it children that hold the whole disk together; leaf first."""
    vhd = Formats(run_tool).cow("vhd")
    chain = [folder / "base.vhd"]
    vhd.create(chain[0], SIZE)
    dice = random.Random(4)
    for level in range(LEVELS):
        child = folder / f"child{level}.vhd"
        vhd.snapshot(child, ImageRef(chain[0], "vhd"), SIZE)
        chain.insert(0, child)
        with closing(open_disk(chain)) as disk:
            for offset in range(level * 16 * PIECE, SIZE, LEVELS * 16 * PIECE):
                for piece in range(offset, min(offset + 16 * PIECE, SIZE), PIECE):
                    disk.pwrite(piece, dice.randbytes(PIECE))
    return chain
