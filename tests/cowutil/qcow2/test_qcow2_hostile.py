"""Damaged and crafted images: a typed refusal or a right answer, little memory, nothing written."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from sm.cowutil.errors import ImageCorrupt, ImageError, ImageUnsupported
from sm.cowutil.extents import Extents, Kind
from sm.cowutil.qcow2.check import check_image
from sm.cowutil.qcow2.header import read_header
from sm.cowutil.qcow2.layer import Qcow2Layer
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.usage import fragmentation, read_usage
from sm.process import run
from tests.cowutil.qcow2.images import BY_NAME, MIB, Variant, alone
from tests.cowutil.qcow2.mutations import mutate
from tests.cowutil.qcow2.synthetic import synthesize
from tests.support.patience import patient
from tests.support.tiers import SEED, SOAK

NAMES = ["plain", "version2", "clusters_512", "extended_16k", "snapshots", "deflate_4k"]
MEMORY = 64 * MIB


def read_all(path: Path) -> None:
    """Everything that reads an image; the data itself at the start of each run."""
    with Source(path) as source:
        read_header(source)
    with Qcow2Layer(path) as layer:
        found = layer.map()
        for start, length, kind in zip(found.start[:50], found.length, found.kind, strict=False):
            buffer = bytearray(min(int(length), 4096))
            if kind != Kind.COMPRESSED:
                layer.read_into(int(start), memoryview(buffer))
    with Qcow2Layer(path) as layer:
        layer.held_size()
        compressed = found.start[found.kind == Kind.COMPRESSED].tolist()
        for start in compressed[:5]:
            layer.read_into(start, memoryview(bytearray(512)))
    read_usage(path)
    fragmentation(path)


@pytest.mark.one_in(6)
@pytest.mark.parametrize("name", NAMES)
def test_mutations_end_in_a_refusal_or_an_answer(name: str, tmp_path: Path) -> None:
    original = BY_NAME[name].make(tmp_path).read_bytes()
    generator = random.Random(f"{SEED} {name}")
    count = 350 if SOAK else 120
    path = tmp_path / "mutant"
    refused = 0
    tracemalloc.start()
    try:
        for number in range(count):
            mutant = mutate(original, generator, header=True)
            path.write_bytes(mutant)
            tracemalloc.reset_peak()
            for reading in (read_all, check_image):
                try:
                    reading(path)
                except ImageError:
                    refused += 1
            assert tracemalloc.get_traced_memory()[1] < MEMORY, number
            assert path.read_bytes() == mutant
    finally:
        tracemalloc.stop()
    assert refused > count // 7


def test_mutants_that_are_accepted_have_the_map_that_qemu_sees(tmp_path: Path) -> None:
    originals = [BY_NAME[name].make(tmp_path).read_bytes() for name in NAMES]
    generator = random.Random(5)
    path = tmp_path / "mutant"
    compared = 0
    for _ in range(200):
        path.write_bytes(mutate(generator.choice(originals), generator, header=True))
        try:
            with Qcow2Layer(path) as layer:
                held = layer.map().extents()
        except ImageError:
            continue
        argv = ["qemu-img", "map", "--output=json", alone(path)]
        told = subprocess.run(argv, capture_output=True, text=True, check=False)
        if told.returncode == 0:  # qemu may refuse what does not concern a reader of data
            entries = [entry for entry in json.loads(told.stdout) if entry["present"]]
            assert held == Extents.of((e["start"], e["start"] + e["length"]) for e in entries)
            compared += 1
    assert compared > 50


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", range(200))
def test_noise_behind_a_magic_number(seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    path = tmp_path / "noise"
    noise = bytearray(generator.randbytes(generator.randrange(0, 300)))
    version = struct.pack(">I", generator.choice([2, 3]))
    path.write_bytes(b"QFI\xfb" + version + noise + bytes(generator.randrange(0, 200_000)))
    with pytest.raises(ImageError):
        read_all(path)


def table_of(path: Path) -> int:
    """File offset of the L1 table."""
    return int.from_bytes(path.read_bytes()[40:48], "big")


def test_one_table_named_by_all_entries_is_refused(tmp_path: Path) -> None:
    """Otherwise a small file would make a scan read terabytes."""
    path = tmp_path / "image"
    synthesize(path, 1 << 40, np.arange(16, dtype=np.int64))
    l1 = table_of(path)
    with path.open("r+b") as file:
        file.seek(l1)
        entry = file.read(8)
        file.seek(l1)
        file.write(entry * 2048)
    with pytest.raises(ImageCorrupt, match="L2 table of another entry"):
        Qcow2Layer(path)
    assert check_image(path).counts.count


def test_a_compression_bomb_gives_one_cluster_at_most(tmp_path: Path) -> None:
    path = Variant("bomb", "compat=1.1", compressed=True).make(tmp_path)
    with Qcow2Layer(path) as layer:
        found = layer.map()
        first = int(np.argmax(found.kind == Kind.COMPRESSED))
        start, offset = int(found.start[first]), int(found.offset[first])
        packer = zlib.compressobj(9, zlib.DEFLATED, -12)
        bomb = packer.compress(bytes(64 * MIB)) + packer.flush()
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bomb[:400])
        buffer = bytearray(65536)
        tracemalloc.start()
        try:
            layer.read_into(start, memoryview(buffer))
            assert tracemalloc.get_traced_memory()[1] < MIB
        finally:
            tracemalloc.stop()
        assert buffer == bytes(65536)


def test_a_file_as_large_as_it_gets_needs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    synthesize(path, 1 << 30, np.arange(16, dtype=np.int64))
    os.truncate(path, 8 << 40)
    program = (
        "from pathlib import Path; from sm.cowutil.qcow2.check import check_image;"
        f"print(check_image(Path({str(path)!r})).report().corruptions);"
        "print(Path('/proc/self/status').read_text())"
    )
    said = run([sys.executable, "-c", program], timeout=patient(60)).stdout.splitlines()
    assert said[0] == "()"
    # Not ru_maxrss: a child begins with that of the process that started it.
    peak = next(line for line in said if line.startswith("VmHWM:"))
    assert int(peak.split()[1]) < 200 << 10
    small = tmp_path / "small_clusters"
    synthesize(small, 1 << 20, np.arange(16, dtype=np.int64), cluster_bits=9)
    os.truncate(small, (1 << 31) * 512 + 512)
    with pytest.raises(ImageUnsupported, match="clusters"):
        check_image(small)


def test_pipes_and_folders_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ImageError):
            read_all(path)


def test_reading_opens_no_other_file_and_writes_nothing(tmp_path: Path) -> None:
    path = BY_NAME["plain"].make(tmp_path)
    program = (
        "from pathlib import Path; from sm.cowutil.qcow2.util import Qcow2Util;"
        "from sm.process import run; import sys; u = Qcow2Util(run); p = Path(sys.argv[1]);"
        "u.info(p); u.check(p); u.allocated_size(p); u.used_size(p); u.open_layer(p).map()"
    )
    trace = tmp_path / "trace"
    argv = ["strace", "-f", "-o", str(trace), "-e", "trace=openat,pwrite64,pwritev,ftruncate"]
    subprocess.run([*argv, sys.executable, "-c", program, str(path)], check=True)
    mine = [line for line in trace.read_text().splitlines() if str(tmp_path) in line]
    assert len(mine) >= 5
    assert all("O_RDONLY" in line for line in mine)
    assert "pwrite" not in trace.read_text()
