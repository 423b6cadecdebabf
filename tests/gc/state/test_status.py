"""The status file of a collector, as others read it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sm.gc.state.status import Delayed, RunningJob, State, Status
from sm.owner import Owner


def _status() -> Status:
    job = RunningJob("1", "coalesce", ("a", "b"), 5.0, "c", None, None, 50, 150, 10.0)
    return Status(
        sr="sr-1",
        owner=Owner.this_process("host", "sm-gc").text,
        state=State.WORKING,
        since=1.0,
        written=6.0,
        jobs=(job,),
        waiting=(Delayed("d", "no-space", "too little", 99.0),),
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert Status.read(tmp_path, "sr-1") is None
    _status().write(tmp_path)
    found = Status.read(tmp_path, "sr-1")
    assert found == _status()
    assert found.jobs[0].seconds_left == 10.0
    assert replace(found.jobs[0], bytes_per_second=0.0).seconds_left is None


def test_what_a_dead_worker_wrote_says_that_it_is_dead(tmp_path: Path) -> None:
    dead = replace(Owner.parse(_status().owner), started=1)
    replace(_status(), owner=dead.text).write(tmp_path)
    found = Status.read(tmp_path, "sr-1")
    assert found is not None
    assert (found.state, found.jobs) == (State.STOPPED, ())
    assert found.waiting == _status().waiting
