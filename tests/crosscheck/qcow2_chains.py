"""Seeded QCOW2 chains that qemu makes, with a model of the disk that they show."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from sm.cowutil.base import ImageRef
from tests.cowutil.contract.subjects import qemu_io, tool
from tests.cowutil.qcow2.images import qemu

KIB = 1 << 10
CLUSTERS = (512, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, 2048 * KIB)
MAX_DEPTH = 5


@dataclass(frozen=True)
class Chain:
    """`images`: uppermost first. `disk`: what a guest reads of it."""

    images: list[ImageRef]
    disk: bytes


def chain_depth(seed: int) -> int:
    """How many images the chain of this number has."""
    return random.Random(seed).choice((1, 2, 2, 3, 3, 4, MAX_DEPTH, MAX_DEPTH))


def make_chain(seed: int, folder: Path) -> Chain:
    """The chain of this number: 1 to 5 images of differing kinds, growing upwards."""
    dice = random.Random(seed)
    depth = chain_depth(seed)
    plain = dice.random() < 0.5  # nothing in it that some reader is known not to understand
    size = dice.randrange(1, 4096) * 512
    images: list[ImageRef] = []
    disk = bytearray()
    if depth > 1 and dice.random() < 0.2:
        disk = bytearray(dice.randbytes(size))
        images.append(ImageRef(folder / "base.raw", "raw"))
        images[0].path.write_bytes(disk)
    while len(images) < depth:
        if not plain:
            size += dice.choice((0, 0, 512, 65536 * dice.randrange(8)))
        path = folder / f"{len(images)}.qcow2"
        version = _create(dice, path, size, images[0] if images else None, plain=plain)
        disk.extend(bytes(size - len(disk)))
        images.insert(0, ImageRef(path, "qcow2"))
        _write(dice, images, disk, version)
    return Chain(images, bytes(disk))


def _create(
    dice: random.Random, path: Path, size: int, parent: ImageRef | None, *, plain: bool
) -> int:
    version = 3 if plain else dice.choice((2, 3, 3))
    cluster = dice.choice(CLUSTERS)
    options = [f"cluster_size={cluster}", f"compat={'0.10' if version == 2 else '1.1'}"]
    if version == 3:
        options.append(f"refcount_bits={dice.choice((1, 2, 4, 8, 16, 16, 32, 64))}")
        if not plain and cluster >= 16 * KIB and dice.random() < 0.4:
            options.append("extended_l2=on")
        if dice.random() < 0.2:
            options.append("lazy_refcounts=on")
        if parent is None and dice.random() < 0.2:
            options.append("preallocation=metadata")
    backing = ["-u", "-b", parent.path.name, "-F", parent.format] if parent else []
    create = ("qemu-img", "create", "-q", "-f", "qcow2", *backing, "-o", ",".join(options))
    qemu(*create, path, str(size))
    return version


def _write(dice: random.Random, chain: list[ImageRef], disk: bytearray, version: int) -> None:
    """Some writes of a guest, to the uppermost image and to the model."""
    commands = []
    for _ in range(dice.randrange(9)):
        start = dice.randrange(len(disk) // 512) * 512
        length = min(dice.choice((512, 1024, 4096, 65536, 200 * KIB)), len(disk) - start)
        byte = dice.randrange(1, 256)
        how = f"-P {byte}"
        if dice.random() < 0.25:
            how, byte = dice.choice(("-z", "-z -u")) if version == 3 else "-P 0", 0
        commands.append(f"write {how} {start} {length}")
        disk[start : start + length] = bytes([byte]) * length
    if commands:
        qemu_io(chain, *commands)


def compress(chain: Chain, folder: Path, seed: int) -> Chain:
    """The same disk as one compressed image."""
    dice = random.Random(seed)
    options = f"cluster_size={dice.choice(CLUSTERS[1:])},compat={dice.choice(('0.10', '1.1'))}"
    path = folder / "packed.qcow2"
    source = folder / "packed.raw"
    source.write_bytes(chain.disk)
    convert = ("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options)
    tool(*convert, str(source), str(path))
    return Chain([ImageRef(path, "qcow2")], chain.disk)


def uniform_ranges(disk: bytes, seed: int, count: int) -> list[tuple[int, int, int]]:
    """Some (offset, length, byte value) of the disk that are all of one value, for qemu-io."""
    dice = random.Random(seed)
    found = []
    for _ in range(count):
        start = dice.randrange(len(disk) // 512) * 512
        byte = disk[start]
        run = len(disk[start : start + 65536]) - len(
            disk[start : start + 65536].lstrip(bytes([byte]))
        )
        if run >= 512:
            found.append((start, run // 512 * 512, byte))
    return found
