"""QCOW2: our map, bytes, verdict and size, against qemu-img, qemu-io and dissect.hypervisor."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageError
from sm.cowutil.extents import Kind
from sm.cowutil.registry import Formats
from sm.process import run
from tests.cowutil.contract.subjects import qemu_content, qemu_io
from tests.cowutil.qcow2.images import qemu_check
from tests.cowutil.qcow2.mutations import mutate
from tests.crosscheck.counts import QCOW2_CHAINS, QCOW2_DAMAGED, QCOW2_PACKED, QCOW2_WRITTEN
from tests.crosscheck.qcow2_chains import Chain, compress, make_chain, uniform_ranges
from tests.crosscheck.readers import dissect_is_wrong, dissect_qcow2, ours, qemu_io_agrees, qemu_map

FORMATS = Formats(run)
IMAGES = FORMATS.cow("qcow2")
KIB = 1 << 10


def agree_on_image(path: Path) -> None:
    """Map, virtual size and verdict of one image alone."""
    size, held, zero = qemu_map(path)
    assert IMAGES.info(path).virtual_size == size
    with IMAGES.open_layer(path) as layer:
        found = layer.map()
    assert found.extents() == held == IMAGES.allocated_extents(path)
    assert IMAGES.allocated_size(path) == held.total
    assert zero.covers(found.extents(Kind.ZERO))
    verdict = IMAGES.check(path)
    assert qemu_check(path) == (len(verdict.corruptions), len(verdict.leaks)) == (0, 0)


def agree_on_disk(chain: Chain, seed: int) -> None:
    """The guest's bytes, through all parents."""
    assert ours(chain.images) == chain.disk
    assert qemu_content(chain.images) == chain.disk
    assert not qemu_io_agrees(chain.images, uniform_ranges(chain.disk, seed, 8))
    if not dissect_is_wrong(chain.images):
        assert dissect_qcow2(chain.images[0].path) == chain.disk


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", range(QCOW2_CHAINS))
def test_chains_of_qemu(seed: int, tmp_path: Path) -> None:
    chain = make_chain(seed, tmp_path)
    for image in chain.images:
        if image.format == "qcow2":
            agree_on_image(image.path)
    agree_on_disk(chain, seed)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", range(QCOW2_PACKED))
def test_compressed_images_of_qemu(seed: int, tmp_path: Path) -> None:
    packed = compress(make_chain(seed, tmp_path), tmp_path, seed)
    agree_on_image(packed.images[0].path)
    agree_on_disk(packed, seed)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", range(QCOW2_WRITTEN))
def test_what_we_write(seed: int, tmp_path: Path) -> None:
    """Create, snapshot, grow, hide and relink are ours; a guest writes between them by qemu."""
    dice = random.Random(seed)
    images = [ImageRef(tmp_path / "0.qcow2", "qcow2")]
    size = dice.randrange(1, 32) * 64 * KIB
    IMAGES.create(images[0].path, size)
    disk = bytearray(size)
    for number in range(1, dice.randint(2, 4)):
        start = dice.randrange(len(disk) // 512) * 512
        length = min(dice.randrange(1, 300) * 512, len(disk) - start)
        qemu_io(images, f"write -P {number} {start} {length}")
        disk[start : start + length] = bytes([number]) * length
        child = ImageRef(tmp_path / f"{number}.qcow2", "qcow2")
        size += dice.choice((0, 64 * KIB))
        IMAGES.snapshot(child.path, images[0], size)
        IMAGES.set_hidden(images[0].path, hidden=True)
        disk.extend(bytes(size - len(disk)))
        images.insert(0, child)
    IMAGES.resize(images[0].path, size + 64 * KIB)
    disk.extend(bytes(64 * KIB))
    qemu_io(images, f"write -P 200 {len(disk) - 1024} 1024")
    disk[-1024:] = b"\xc8" * 1024
    chain = Chain(images, bytes(disk))
    for image in images:
        agree_on_image(image.path)
    agree_on_disk(chain, seed)
    if len(images) > 2:
        IMAGES.coalesce(images, 2)
        IMAGES.set_parent(images[0].path, images[2])
        agree_on_disk(Chain([images[0], *images[2:]], chain.disk), seed)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", range(QCOW2_DAMAGED))
def test_verdicts_on_damaged_images(seed: int, tmp_path: Path) -> None:
    """Corrupt for us where it is for qemu-img, and leaking where it is for qemu-img."""
    chain = make_chain(seed, tmp_path)
    sound = next(image for image in chain.images if image.format == "qcow2")
    path = tmp_path / "damaged"
    path.write_bytes(mutate(sound.path.read_bytes(), random.Random(seed), header=False))
    expected = qemu_check(path)
    try:
        verdict = IMAGES.check(path)
    except ImageError:
        assert expected is None
        return
    if expected is None:
        assert verdict.corruptions
        return
    assert bool(verdict.corruptions) == bool(expected[0]), verdict
    assert verdict.corruptions or bool(verdict.leaks) == bool(expected[1])
