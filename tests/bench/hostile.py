"""The hostile images: CPU for the dearest refusal, and for the dearest report of a check."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from sm.cowutil.registry import Formats
from sm.process import run as run_tool
from tests.bench.measure import Row, Target
from tests.bench.workshop import Workshop
from tests.hostile.child import outcome
from tests.hostile.corpus import corpus
from tests.hostile.reading import READINGS

REPEAT = 3
"""The least counts: a busy machine makes any time longer and none shorter."""

AIM_OF_A_REFUSAL = 200.0
AIM_OF_A_REPORT = 1000.0
"""Milliseconds; see docs/formats.md for what takes so long."""


def _least(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(REPEAT):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken) * 1000


def _info(kind: str, path: Path) -> None:
    kinds = {"qcow2": "qcow2", "vhd": "vpc"}
    argv = ["qemu-img", "info", "-f", kinds[kind], str(path)]
    subprocess.run(argv, check=False, capture_output=True)  # it refuses most of them, as we do


def run(workshop: Workshop) -> list[Row]:
    """Milliseconds for one reading of one image."""
    formats, folder = Formats(run_tool), workshop.folder / "hostile"
    folder.mkdir()
    worst = {"refusal": (0.0, ""), "report": (0.0, "")}
    ours, theirs = 0.0, 0.0
    cases = corpus()
    for case in cases:
        path = case.write(folder)
        for reading in READINGS:
            said = outcome(formats, case.format, path, reading)
            taken = _least(lambda: outcome(formats, case.format, path, reading))  # noqa: B023
            kind = "report" if said is not None and "corruptions" in said else "refusal"
            worst[kind] = max(worst[kind], (taken, f"{case.name}, {reading}"))
            ours += taken if reading == "info" else 0.0
        began = time.monotonic()
        _info(case.format, path)
        theirs += (time.monotonic() - began) * 1000
        path.unlink()
    rows = [Row("hostile", "info", ours / len(cases), "qemu-img info", theirs / len(cases))]
    for kind, aim in (("refusal", AIM_OF_A_REFUSAL), ("report", AIM_OF_A_REPORT)):
        taken, name = worst[kind]
        rows.append(Row("hostile", f"{kind}: {name}", taken, "the aim", aim, Target.within(1)))
    return rows
