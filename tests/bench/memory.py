"""How much memory the scan of the largest image takes, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from tests.bench.measure import Row, Target
from tests.bench.workshop import TIB, Workshop

SCAN = """
from sm.cowutil.qcow2.layer import Qcow2Layer
with Qcow2Layer(path) as layer:
    assert layer.held_size() == layer.held().total
    layer.bitmap()
"""
CHECK = """
from sm.cowutil.qcow2.check import check_image
assert check_image(path).report().clean
"""
BEFORE = """
import sys
from pathlib import Path
path = Path(sys.argv[1])
"""
AFTER = """
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""
LIMIT = 256.0


def run(workshop: Workshop) -> list[Row]:
    """Size, extents and bitmap of 16 TiB whose L2 tables all exist, and the check."""
    path = workshop.image("spread", 16 * TIB)
    rows = []
    for what, program in (("scan", SCAN), ("check", CHECK)):
        argv = [sys.executable, "-c", BEFORE + program + AFTER, str(path)]
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        target = Target.within(1)
        rows.append(
            Row("memory", f"{what} of 16 TiB", int(said) / 1024, "the cap", LIMIT, target, "MiB")
        )
    return rows
