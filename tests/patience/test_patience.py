"""How long tests wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import patience
from tests.support.patience import LEAST, MEASURED, MOST, SETTING, chosen, measured, until

ROOT = Path(__file__).parents[2]
SAYS = [sys.executable, "-c", "from tests.support.patience import FACTOR; print(FACTOR)"]


def factor_of_a_process(**variables: str) -> float:
    """The factor of a process with these variables, and none of the tests' own."""
    own = {name: value for name, value in os.environ.items() if name not in (SETTING, MEASURED)}
    said = subprocess.run(
        SAYS, cwd=ROOT, env={**own, **variables}, capture_output=True, text=True, check=True
    )
    return float(said.stdout)


def test_it_is_set_by_one_variable() -> None:
    assert factor_of_a_process(**{SETTING: "1"}) == 1
    assert factor_of_a_process(**{SETTING: "33.5", MEASURED: "x:5"}) == 33.5
    for wrong in ("0.5", "nan", "inf", "long"):
        with pytest.raises(ValueError, match=r"SM_TEST_PATIENCE|float"):
            chosen(wrong)


def test_what_was_measured_is_handed_on_to_processes_of_the_same_machine() -> None:
    here = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert factor_of_a_process(**{MEASURED: f"{here}:17.25"}) == 17.25
    assert LEAST <= factor_of_a_process(**{MEASURED: "another machine:17.25"}) <= MOST


def test_a_slow_or_busy_machine_is_waited_for_longer() -> None:
    usual = patience.REFERENCE_SECONDS
    assert measured(usual / 2, 0) == measured(usual, 1) == LEAST
    assert measured(2 * usual, 0.5) == measured(usual, 2) == 2 * LEAST
    assert measured(100 * usual, 100) == MOST


def test_what_did_not_happen_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([0, 0, 7])
    assert until(lambda: next(answers)) == 7
    monkeypatch.setattr(patience, "FACTOR", 0)
    with pytest.raises(AssertionError, match=r"the end of the world$"):
        until(lambda: False, "the end of the world")
    with pytest.raises(AssertionError, match="answers is None"):
        until(lambda: answers is None)
