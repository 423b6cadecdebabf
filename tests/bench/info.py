"""The headers of many images, as the scan of a storage repository reads them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sm.cowutil.registry import Formats
from sm.process import run as run_tool
from tests.bench.measure import Row, Target, in_turn
from tests.bench.workshop import Workshop

IMAGES = 10_000
SAMPLE = 20


def _qemu_info(paths: list[Path]) -> None:
    for path in paths:
        argv = ["qemu-img", "info", "-f", "qcow2", "--output=json", str(path)]
        subprocess.run(argv, check=True, capture_output=True)


def run(workshop: Workshop) -> list[Row]:
    """Microseconds for one image."""
    paths = workshop.small_images(IMAGES)
    qcow2 = Formats(run_tool).get("qcow2")
    works = {
        "ours": lambda: [qcow2.info(path) for path in paths],
        "stat": lambda: [path.stat() for path in paths],
        "qemu": lambda: _qemu_info(paths[:SAMPLE]),
    }
    taken = in_turn(works, repeat=3)
    ours, what = taken["ours"] * 1000 / IMAGES, "info of one of 10,000"
    qemu, stat = taken["qemu"] * 1000 / SAMPLE, taken["stat"] * 1000 / IMAGES
    return [
        Row("info", what, ours, "qemu-img info", qemu, Target.faster(50), "us"),
        Row("info", what, ours, "the aim", 15.0, Target.within(1), "us"),
        Row("info", what, ours, "Path.stat", stat, None, "us"),
    ]
