"""Seeded VHDs with a model of the disk that they show: ours, foreign layouts, and qemu's."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from sm.cowutil.base import ImageRef
from tests.cowutil.contract.subjects import tool
from tests.cowutil.vhd.vhd_foreign import MIB, Foreign, footer
from tests.cowutil.vhd.vhd_support import fill, open_disk, ref, util
from tests.crosscheck.qcow2_chains import Chain, chain_depth

BLOCK_SIZES = (512 << 10, 1 << 20, 2 << 20)
"""What writers other than qemu and blktap may choose, within our limits for new images."""


def make_chain(seed: int, folder: Path) -> Chain:
    """A chain of 1 to 5 images that we wrote, growing upwards."""
    dice = random.Random(seed)
    images: list[ImageRef] = []
    disk = bytearray()
    size = dice.randrange(2, 5) * 2 * MIB
    unit, growths = dice.choice(((4096, (0,)), (4096, (0,)), (512, (0, 0, 2 * MIB))))
    for number in range(chain_depth(seed)):
        path = folder / f"{number}.vhd"
        if images:
            size += dice.choice(growths)
            util().snapshot(path, images[0], size)
        else:
            util().create(path, size)
        disk.extend(bytes(size - len(disk)))
        images.insert(0, ref(path))
        opened = open_disk([image.path for image in images])
        fill(opened, disk, seed * 10 + number, dice.randrange(6), unit)
        opened.close()
    return Chain(images, bytes(disk))


def foreign(seed: int, folder: Path) -> Chain:
    """A parent and its child as some other program could lay them out, or one disk alone."""
    dice = random.Random(seed)
    block_size = dice.choice(BLOCK_SIZES)
    size = dice.randrange(1, 9) * 512 << 10
    disk = bytearray(size)
    base = _fixed(dice, folder, disk) if dice.random() < 0.15 else None
    if base is None:
        base = ref(folder / "base.vhd")
        image = _image(dice, disk, size, block_size, whole=True)
        base.path.write_bytes(image.build())
    if dice.random() < 0.5:
        return Chain([base], bytes(disk))
    link = [
        (b"W2ku", "D:\\disks\\base.vhd".encode("utf-16-le"), 0x1000, 512),
        (b"W2ru", ".\\base.vhd".encode("utf-16-le"), 0x1200, 512),
    ]
    image = _image(dice, disk, size, dice.choice(BLOCK_SIZES), whole=False)
    image.locators, image.name, image.parent = link, "base.vhd", b"0123456789abcdef"
    child = ref(folder / "child.vhd")
    child.path.write_bytes(image.build())
    return Chain([child, base], bytes(disk))


def _fixed(dice: random.Random, folder: Path, disk: bytearray) -> ImageRef:
    """A fixed disk, and the same in the model."""
    disk[:] = dice.randbytes(len(disk))
    path = folder / "base.vhd"
    path.write_bytes(bytes(disk) + footer(2, len(disk), data_offset=2**64 - 1))
    return ref(path)


def _image(
    dice: random.Random, disk: bytearray, size: int, block_size: int, *, whole: bool
) -> Foreign:
    """A sparse image with some blocks in any order, also written to the model.

    `whole`: all sectors of a block are held, as in a disk without a parent.
    """
    count = -(-size // block_size)
    numbers = dice.sample(range(count), dice.randrange(count + 1))
    bitmap_size = -(-block_size // 512 // 8 // 512) * 512
    at = dice.choice((0x8000, 0x8200, 0x20000))
    # Half of the children hold any sectors, the others 4 KiB at a time.
    grain: Callable[[int], bytes] = dice.choice(
        (dice.randbytes, lambda n: bytes(dice.choices((0, 255), k=n)))
    )
    blocks = {}
    for number in numbers:
        bits = b"\xff" * bitmap_size
        if not whole:
            bits = grain(bitmap_size)
        data = dice.randbytes(4096) * (block_size // 4096)
        blocks[number] = (at, bits, data)
        at += bitmap_size + block_size + dice.choice((0, 0, 512, 4096))
        for sector in range(block_size // 512):
            start = number * block_size + sector * 512
            if bits[sector // 8] & 0x80 >> sector % 8 and start < size:
                disk[start : start + 512] = data[sector * 512 : sector * 512 + 512]
    return Foreign(
        size=size,
        block_size=block_size,
        header_at=dice.choice((512, 0x3000)),
        table_at=dice.choice((0x600, 0x2000, 0x4000)),
        blocks=blocks,
        padding=dice.choice((b"\0", b"\xff")),
    )


def of_qemu(seed: int, folder: Path) -> Chain:
    """A disk that qemu-img made and filled, of whole cylinders or of exactly the size asked for."""
    dice = random.Random(seed)
    options = [f"subformat={dice.choice(('dynamic', 'dynamic', 'fixed'))}"]
    if dice.random() < 0.5:
        options.append("force_size=on")
    disk = bytearray(dice.randrange(1, 4) * MIB)
    for _ in range(dice.randrange(1, 6)):
        start = dice.randrange(len(disk) // 512) * 512
        part = dice.randbytes(min(dice.choice((512, 4096, 100_352)), len(disk) - start))
        disk[start : start + len(part)] = part
    source, path = folder / "source.raw", folder / "made.vhd"
    source.write_bytes(disk)
    convert = ("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", ",".join(options))
    tool(*convert, str(source), str(path))
    return Chain([ref(path)], bytes(disk))
