"""A run of the collector in a fork of the test: to its end, or killed at one of its steps."""

from __future__ import annotations

from tests.gc.crash_child import collect
from tests.support.forked import Outcome, child
from tests.support.site import Site


def steps_of(site: Site, sr: str, speed: int = 0) -> list[str]:
    """All journaled steps of an undisturbed run; `speed` as in `crash_child`."""
    ended = _run(site, sr, 0, speed)
    assert ended.done, ended
    return list(ended.notes)


def killed_at(site: Site, sr: str, step: int | str, speed: int = 0) -> None:
    """Kill a run with SIGKILL at its N-th step, from 1 on, or at the first that is called so."""
    ended = _run(site, sr, step, speed)
    assert ended.killed, ended


def _run(site: Site, sr: str, step: int | str, speed: int) -> Outcome:
    site.release()
    return child(site.environment, lambda note: collect(sr, str(step), note, speed))
