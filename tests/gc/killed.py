"""A run of the collector in a fork of the test: to its end, or killed at one of its steps."""

from __future__ import annotations

from tests.gc.crash_child import collect
from tests.support.forked import Outcome, child
from tests.support.site import Site


def steps_of(site: Site, sr: str, speed: int = 0) -> list[str]:
    """All journaled steps of an undisturbed run; `speed` as in `collect`."""
    ended = _run(site, sr, 0, speed)
    assert ended.done, ended
    return list(ended.notes)


def killed_at(site: Site, sr: str, step: int | str, speed: int = 0) -> str:
    """Kill a run at its N-th step, from 1 on, or at the first called so; returns the step."""
    ended = _run(site, sr, step, speed)
    assert ended.killed, ended
    return ended.notes[-1]


def _run(site: Site, sr: str, step: int | str, speed: int) -> Outcome:
    site.release()
    return child(site.environment, lambda note: collect(sr, note, step, speed))
