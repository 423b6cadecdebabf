"""Chains for the tests of the datapath, and what they must read as."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from sm.cowutil.base import ImageRef
from sm.cowutil.vhd.util import VhdUtil
from sm.datapath.base import Disk
from sm.process import run
from tests.cowutil.vhd.vhd_support import Libvhdi, open_disk
from tests.datapath.clients import BLOCK

SIZE = 8 << 20
PAGE = 4096
DISK = Disk("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
UTIL = VhdUtil(run)


def image(folder: Path, name: str) -> ImageRef:
    """The image called `name`."""
    return ImageRef(folder / f"{name}.vhd", "vhd")


def chain_of(folder: Path, *names: str, plain: bool = False) -> tuple[list[ImageRef], bytearray]:
    """A chain, base first in `names`, of random pages in each, and its content; leaf first.

    With `plain`, each 64 KiB hold one byte over and over, as `clients.Writer` wants it.
    """
    grain = BLOCK if plain else PAGE
    made: list[ImageRef] = []
    model = bytearray(SIZE)
    for number, name in enumerate(names):
        ref = image(folder, name)
        if made:
            UTIL.snapshot(ref.path, made[0], SIZE)
        else:
            UTIL.create(ref.path, SIZE)
        made.insert(0, ref)
        dice = random.Random(number)
        with closing(open_disk([each.path for each in made])) as disk:
            for _ in range(40):
                length = dice.randrange(1, 160_000 // grain + 2) * grain
                at = dice.randrange((SIZE - length) // grain) * grain
                data = dice.randbytes(1) * length if plain else dice.randbytes(length)
                disk.pwrite(at, data)
                model[at : at + length] = data
    return made, model


def independent_content(chain: Sequence[ImageRef]) -> bytes:
    """What a foreign library reads; right where data has whole, aligned pages."""
    return Libvhdi().content([each.path for each in chain])


def check(chain: Sequence[ImageRef]) -> None:
    """Every VHD is sound."""
    for each in chain:
        if each.format == "vhd":
            report = UTIL.check(each.path)
            assert not report.corruptions, report
