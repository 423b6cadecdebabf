"""The map of a chain against a plain model: sector by sector, from the uppermost image down."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sm.cowutil.chain import ChainReader
from sm.cowutil.chain_map import HOLE, ChainMap, map_chain
from sm.cowutil.extents import Extents, Kind
from tests.cowutil.contract.toy import SECTOR, ToyFormat, ToyImage, ToyLayer


def owners(images: list[ToyImage], size: int) -> list[int]:
    """For each sector of the disk the depth of the image that gives it, -1 for none."""
    found = []
    for sector in range(size // SECTOR):
        owner = -1
        for depth, image in enumerate(images):
            if (sector + 1) * SECTOR > image.virtual_size:
                break
            if sector in image.sectors:
                owner = depth
                break
        found.append(owner)
    return found


def spread(found: ChainMap) -> list[int]:
    """The same from a map, which must cover the disk without gaps."""
    depths: list[int] = []
    for start, length, depth, kind in zip(
        found.start.tolist(),
        found.length.tolist(),
        found.depth.tolist(),
        found.kind.tolist(),
        strict=True,
    ):
        assert start == len(depths) * SECTOR
        assert (kind == HOLE) == (depth == -1)
        depths += [depth] * (length // SECTOR)
    return depths


@pytest.mark.parametrize("seed", range(60))
def test_random_chains(seed: int) -> None:
    dice = random.Random(seed)
    images = []
    for _ in range(dice.randrange(1, 6)):
        sectors = dice.randrange(1, 40)
        held = dice.sample(range(sectors), dice.randrange(0, sectors + 1))
        content = {number: dice.randbytes(SECTOR) for number in held}
        images.append(ToyImage(sectors * SECTOR, sectors=content))
    size = images[0].virtual_size
    layers = [ToyLayer(image) for image in images]
    found = map_chain(layers, size)
    expected = owners(images, size)
    assert spread(found) == expected
    held_extents = Extents.of(
        (sector * SECTOR, (sector + 1) * SECTOR)
        for sector, owner in enumerate(expected)
        if owner >= 0
    )
    assert found.extents(Kind.DATA) == held_extents
    assert ChainReader(layers, size).extents(Kind.DATA) == held_extents
    data = found.kind == Kind.DATA
    assert found.offset[data].tolist() == found.start[data].tolist()  # where the toy keeps it
    assert (found.offset[~data] == -1).all()


def test_an_empty_disk_is_one_hole() -> None:
    images = ToyFormat({})
    images.create(Path("a"), 4096)
    with images.open_layer(Path("a")) as layer:
        found = map_chain([layer], 4096)
    assert len(found) == 1
    assert (found.start.tolist(), found.length.tolist()) == ([0], [4096])
    assert (found.kind.tolist(), found.depth.tolist()) == ([HOLE], [-1])
