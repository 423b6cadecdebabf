"""Mutated images: typed errors only, whatever is read or changed, in bounded memory."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import patient
from tests.support.tiers import SOAK

pytestmark = pytest.mark.one_in(2)

ROOT = Path(__file__).parents[2]

MUTANTS = 600 if SOAK else 240
"""Images tried in each run of the tests, besides those of the formats' own tests."""

PROCESSES = 2
CPU_SECONDS = math.ceil(patient(600))
"""Only the end of a process that would go on for ever."""

ADDRESS_SPACE = 1 << 30
"""Generous, because numpy's libraries alone reserve hundreds of MiB."""


@pytest.mark.parametrize("part", range(PROCESSES))
def test_only_typed_errors_come_out(part: int) -> None:
    count = MUTANTS // PROCESSES
    argv = [sys.executable, "-m", "tests.hostile.fuzz", "--first", str(part * count)]
    child = subprocess.Popen(
        [*argv, "--count", str(count), "--address-space", str(ADDRESS_SPACE)],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    resource.prlimit(child.pid, resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    output, errors = child.communicate()
    assert child.returncode == 0, errors[-3000:]
    refused, accepted = (int(word) for word in output.split() if word.isdigit())
    assert refused + accepted == count
    assert min(refused, accepted) > count // 10
