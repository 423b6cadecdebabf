"""Merging QCOW2 images, against dd of the unique bytes and one plain `qemu-img commit`."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sm.cowutil.base import ImageRef
from sm.cowutil.registry import Formats
from sm.process import run as run_tool
from tests.bench.measure import Row, Target, in_turn
from tests.bench.vhd import dd
from tests.bench.workshop import Workshop

MIB = 1 << 20
SIZE = 256 * MIB
LEVELS = 4


def run(workshop: Workshop) -> list[Row]:
    """An empty base below images that hold overlapping parts, all of the disk together."""
    folder = workshop.folder / "merge"
    folder.mkdir()
    qcow2 = Formats(run_tool).cow("qcow2")
    chain = _chain(folder)
    base, copy, plain = chain[-1].path, folder / "copy", folder / "plain"
    argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(chain[0].path), str(plain)]
    subprocess.run(argv, check=True)
    empty = base.read_bytes()

    def prepare() -> None:
        base.write_bytes(empty)
        copy.unlink(missing_ok=True)
        subprocess.run(["sync", "-f", str(folder)], check=True)

    commit = ["qemu-img", "commit", "-q", "-d", "-b", str(base), str(chain[0].path)]
    works = {
        "ours": lambda: qcow2.coalesce(chain, LEVELS),
        "commit": lambda: subprocess.run(commit, check=True),
        "dd": lambda: dd(plain, copy, "conv=fsync"),
    }
    taken = in_turn(works, repeat=3, prepare=prepare)
    prepare()
    before = _written()
    unique = qcow2.coalesce(chain, LEVELS)
    written = (_written() - before) / MIB
    what = f"{LEVELS} images, {SIZE >> 20} MiB"
    once = Target.within(1.1)
    return [
        Row("merge", what, taken["ours"], "dd conv=fsync", taken["dd"], Target.within(1.5)),
        Row("merge", what, taken["ours"], "qemu-img commit", taken["commit"]),
        Row("merge", f"{what}, written", written, "unique bytes", unique / MIB, once, "MiB"),
    ]


def _written() -> int:
    """Bytes that this process and its ended children have passed to write calls."""
    counters = Path("/proc/self/io").read_text(encoding="ascii").split()
    return int(counters[counters.index("wchar:") + 1])


def _chain(folder: Path) -> list[ImageRef]:
    """Uppermost first. Each image holds half of the disk in pieces of 1 MiB, its own half first."""
    qcow2 = Formats(run_tool).cow("qcow2")
    refs = [ImageRef(folder / "base.qcow2", "qcow2")]
    qcow2.create(refs[0].path, SIZE)
    for level in range(LEVELS):
        child = ImageRef(folder / f"child{level}.qcow2", "qcow2")
        qcow2.snapshot(child.path, refs[0], SIZE)
        refs.insert(0, child)
        commands = [
            part
            for piece in range(level % 2, SIZE // MIB, 2)
            for part in ("-c", f"write -q -P {piece % 250 + 1} {piece}M 1M")
        ]
        argv = ["qemu-io", "-f", "qcow2", *commands, str(child.path)]
        subprocess.run(argv, check=True, capture_output=True)
    return refs
