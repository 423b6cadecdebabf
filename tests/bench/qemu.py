"""Maps and checks against qemu-img."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

from sm.cowutil.qcow2.check import check_image
from tests.bench.measure import Row, Target, Work, in_turn
from tests.bench.scan import extents
from tests.bench.workshop import GIB, TIB, Workshop

CHECKS = (("full", 2 * TIB), ("second", 2 * TIB), ("half", 2 * TIB), ("shuffled", 32 * GIB))
"""The check of qemu-img takes many minutes for a shuffled image of 2 TiB."""

MAPS = (("full", 2 * TIB), ("half", 16 * GIB), ("shuffled", 16 * GIB))
"""It writes a line for each extent, which a large one has millions of."""


def _qemu_img(command: str, path: Path) -> str:
    argv = ["qemu-img", command, "-f", "qcow2", "--output=json", str(path)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def run_map(workshop: Workshop) -> list[Row]:
    """Extents against `qemu-img map`."""
    rows = []
    for pattern, size in MAPS:
        path = workshop.image(pattern, size)
        told = [entry for entry in json.loads(_qemu_img("map", path)) if entry["present"]]
        if extents(path).total != sum(entry["length"] for entry in told):
            raise AssertionError(f"qemu-img and the scan differ on {path}")
        works: dict[str, Work] = {
            "ours": partial(extents, path),
            "qemu": partial(_qemu_img, "map", path),
        }
        taken = in_turn(works, repeat=2)
        what = f"extents, {pattern} {size >> 30} GiB"
        rows.append(Row("map", what, taken["ours"], "qemu-img map", taken["qemu"]))
    return rows


def run_check(workshop: Workshop) -> list[Row]:
    """The whole check against `qemu-img check`; both must find nothing."""
    rows = []
    for pattern, size in CHECKS:
        path = workshop.image(pattern, size)
        if not check_image(path).report().clean:
            raise AssertionError(f"findings in {path}")
        works: dict[str, Work] = {
            "ours": partial(check_image, path),
            "qemu": partial(_qemu_img, "check", path),
        }
        taken = in_turn(works, repeat=3)
        what = f"check, {pattern} {size >> 30} GiB"
        against = "qemu-img check"
        rows.append(Row("check", what, taken["ours"], against, taken["qemu"], Target.faster(5)))
    return rows
