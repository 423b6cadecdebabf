"""A worker's status file, kept up to date, and as a sign of life."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from sm.gc.service.jobs import Job
from sm.gc.state.status import Delayed, State, Status, status_path
from sm.owner import Owner
from sm.repository import Repository

log = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
"""While jobs run their progress is written so often."""


class Reporter:
    """Writes the status of one worker, `owner`. Times in seconds since 1970."""

    def __init__(self, repository: Repository, owner: Owner) -> None:
        self._run = repository.settings.run
        self._last = Status(repository.uuid, owner.text, State.RECOVERING, 0.0, 0.0)
        self._written = 0.0
        """When it was written last, by the monotonic clock."""

    def write(
        self,
        state: State,
        now: float,
        *,
        jobs: Sequence[Job] = (),
        waiting: Sequence[Delayed] = (),
        next_look: float | None = None,
        detail: str = "",
    ) -> None:
        """Say all of it. Nothing but the time is written where nothing else has changed."""
        last = self._last
        fresh = replace(
            last,
            state=state,
            since=last.since if state is last.state and last.written else now,
            written=last.written,
            next_look=next_look,
            detail=detail,
            jobs=tuple(job.status for job in jobs),
            waiting=tuple(waiting),
        )
        rest = replace(fresh, jobs=last.jobs, next_look=last.next_look)
        same_jobs = [job.id for job in fresh.jobs] == [job.id for job in last.jobs]
        fresh_enough = not jobs or time.monotonic() - self._written < WRITE_SECONDS
        if last.written and rest == last and same_jobs and fresh_enough:
            self.live()
            return
        self._last, self._written = replace(fresh, written=now), time.monotonic()
        try:
            self._last.write(self._run)
        except OSError as error:
            log.warning("nobody can be told what is done: %s", error)

    def live(self) -> None:
        """Let the age of the file say that its writer lives."""
        with suppress(OSError):  # without the file there is nothing to keep fresh
            os.utime(status_path(self._run, self._last.sr))
