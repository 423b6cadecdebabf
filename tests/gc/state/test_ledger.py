"""What the collector remembers between its runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm.gc.state.ledger import FIRST_DELAY, LONGEST_DELAY, FinishedJob, Ledger, Result, Total


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "gc.db")


def _job(number: int, **changed: object) -> FinishedJob:
    values = {
        "id": f"job-{number}",
        "sr": "sr-1",
        "action": "coalesce",
        "images": ("a", "b"),
        "began": 1000.0 + number,
        "seconds": 2.0,
        "result": Result.DONE,
        "into": "c",
        "bytes_copied": 100,
        **changed,
    }
    return FinishedJob(**values)  # type: ignore[arg-type]


def test_jobs_come_back_whole_and_newest_first(ledger: Ledger) -> None:
    jobs = [_job(1), _job(2, sr="sr-2"), _job(3, result=Result.FAILED, code="no-space", reason="!")]
    for job in jobs:
        ledger.finished(job)
    assert ledger.history() == jobs[::-1]
    assert ledger.history("sr-1") == [jobs[2], jobs[0]]
    assert ledger.history(limit=1) == [jobs[2]]


def test_the_speed_is_that_of_jobs_that_copied(ledger: Ledger) -> None:
    assert ledger.speed("sr-1") is None
    ledger.finished(_job(1, bytes_copied=300, seconds=1.0))
    ledger.finished(_job(2, bytes_copied=100, seconds=3.0))
    ledger.finished(_job(3, bytes_copied=0))
    ledger.finished(_job(4, bytes_copied=9000, result=Result.GAVE_WAY))
    assert ledger.speed("sr-1") == 100.0


def test_the_wait_doubles_with_each_failure_in_a_row(ledger: Ledger) -> None:
    waits = [ledger.failed("sr-1", "a", "no-space", "full", 0.0).next_attempt for _ in range(12)]
    assert waits[:3] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert waits[-1] == LONGEST_DELAY
    assert ledger.failures("sr-1")["a"].count == 12
    assert ledger.failures("sr-2") == {}
    ledger.succeeded("sr-1", "a")
    assert ledger.failed("sr-1", "a", "failed", "again", 5.0).next_attempt == 5.0 + FIRST_DELAY
    ledger.retry("sr-1")
    assert ledger.failures("sr-1") == {}


def test_patience_lasts_as_long_as_the_work_is_planned(ledger: Ledger) -> None:
    assert ledger.waiting_since("sr-1", {"a", "b"}, 10.0) == {"a": 10.0, "b": 10.0}
    assert ledger.waiting_since("sr-1", {"b", "c"}, 20.0) == {"b": 10.0, "c": 20.0}
    assert ledger.waiting_since("sr-1", {"a"}, 30.0) == {"a": 30.0}


def test_totals_do_not_shrink_when_jobs_are_forgotten(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sm.gc.state.ledger.KEPT_JOBS", 2)
    for number in range(5):
        ledger.finished(_job(number, bytes_freed=7, pause_seconds=0.5))
    ledger.finished(_job(4))
    ledger.finished(_job(9, result=Result.FAILED, code="no-space", bytes_copied=0))
    assert len(ledger.history("sr-1")) == 2
    assert ledger.totals("sr-1") == [
        Total("coalesce", Result.DONE, "", 5, 10.0, 500, 35, 2.5),
        Total("coalesce", Result.FAILED, "no-space", 1, 2.0, 0, 0, 0.0),
    ]
    assert ledger.totals("sr-2") == []
