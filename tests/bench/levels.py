"""How many bytes a merge of a run copies: against the unique bytes, and against level by level.

The same chains of real images, merged twice: by the collector's choice, and as pairs from the top
down, each image into the one below it. What each way copied is what its merges report. The unique
bytes are those that the images show together; nobody can copy fewer than all but those of the one
that shows most.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from sm.cowutil.base import ImageRef
from sm.cowutil.extents import Extents
from sm.cowutil.registry import Formats
from sm.gc.plan import costs
from sm.process import run as run_tool
from tests.bench.measure import Row, Target
from tests.bench.workshop import Workshop
from tests.cowutil.contract.subjects import make_cow

MIB = 1 << 20
SIZE = 32 * MIB
DEPTHS = (2, 5, 10, 20, 30)


def run(workshop: Workshop) -> list[Row]:
    """One pair of rows for each depth."""
    rows = []
    for depth in DEPTHS:
        folder = workshop.folder / f"levels-{depth}"
        folder.mkdir()
        chain = _chain(folder, depth)
        held = [_held(image) for image in chain]
        unique = sum(costs.shown(held)) / MIB
        ours = _ours(chain, held, folder / "ours") / MIB
        pairs = _level_by_level(chain, folder / "pairs") / MIB
        what = f"{depth} images, copied"
        once = Target.within(1.0)
        rows.append(Row("levels", what, ours, "unique bytes", unique, once, "MiB"))
        rows.append(Row("levels", what, ours, "level by level", pairs, unit="MiB"))
    return rows


def _ours(chain: list[ImageRef], held: list[Extents], folder: Path) -> int:
    """What is above the image that stays goes down, what is below it up."""
    qcow2 = Formats(run_tool).cow("qcow2")
    copies = _copied(chain, folder)
    stays = costs.cheapest(held)
    copied = 0
    if stays:
        copied += qcow2.coalesce(copies, stays)
    if stays + 1 < len(copies):
        copied += qcow2.pull(copies[stays:], len(copies) - 1 - stays)
    return copied


def _level_by_level(chain: list[ImageRef], folder: Path) -> int:
    qcow2 = Formats(run_tool).cow("qcow2")
    copies = _copied(chain, folder)
    return sum(qcow2.coalesce(copies[level:], 1) for level in range(len(copies) - 1))


def _copied(chain: list[ImageRef], folder: Path) -> list[ImageRef]:
    folder.mkdir()
    return [ImageRef(Path(shutil.copy2(image.path, folder)), image.format) for image in chain]


def _held(image: ImageRef) -> Extents:
    return Formats(run_tool).get(image.format).allocated_extents(image.path)


def _chain(folder: Path, depth: int) -> list[ImageRef]:
    """Uppermost first; each image holds an eighth of the disk, in pieces anywhere."""
    subject, dice = make_cow("qcow2"), random.Random(depth)
    chain: list[ImageRef] = []
    for level in range(depth):
        image = subject.ref(folder, str(level))
        if chain:
            subject.images.snapshot(image.path, chain[0], SIZE)
        else:
            subject.images.create(image.path, SIZE)
        chain.insert(0, image)
        for _ in range(8):
            subject.write(chain, dice.randrange(SIZE // MIB) * MIB // 2, MIB // 2, level + 1)
    return chain
