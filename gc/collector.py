"""The collector of one SR as its users see it: what it would do, and doing it to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sm.cowutil.base import Progress, no_progress
from sm.gc.merges.merge import Done
from sm.gc.plan.decision import Decision, decide
from sm.gc.plan.planner import Plan, Waiting
from sm.gc.service.worker import Mode, Setting, Worker
from sm.repository import Repository


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work as it ran: what was done, in how many seconds."""

    done: Done
    seconds: float


class Collector:
    """Works on one SR. `progress` hears of bytes copied and to copy, by all copies together.

    `crash`: see `sm.gc.service.worker.Setting`.
    """

    def __init__(
        self,
        repository: Repository,
        progress: Progress = no_progress,
        crash: Callable[[], None] | None = None,
    ) -> None:
        self._repository = repository
        self._progress = progress
        self._crash = crash
        self._worker: Worker | None = None

    @contextmanager
    def alone(self, seconds: float | None = None) -> Iterator[None]:
        """Be the only collector of this SR on this host, as long as it is attached."""
        repository = self._repository
        with repository.locks.hold("collector", repository.uuid, "sm-gc", seconds=seconds):
            repository.require_attached()
            repository.require_master()
            yield

    def plan(self) -> Plan:
        """What would be done now; what the last run tried in vain is waiting. Changes nothing."""
        return self.look().plan

    def look(self) -> Decision:
        """What would be done now, and the trees that it is about. Changes nothing."""
        with self._repository.locked("plan"):
            found = decide(self._repository)
        if self._worker is None:
            return found
        barrier, backlog = self._worker.unfinished()
        return replace(found, plan=backlog.without_tried(found.plan, barrier))

    def run(self) -> Iterator[Step]:
        """Do all that can be done; only inside `alone`.

        What an earlier process left comes first. Work that fails is left out for the rest of the
        run and named in `waiting`.
        """
        yield from self._steps(Mode.ONCE)

    def recover(self) -> None:
        """Only finish or undo what an earlier process left; only inside `alone`."""
        for _ in self._steps(Mode.RECOVER):
            continue

    def stop(self) -> None:
        """Have a run end soon, at a safe point; may be called by a signal handler."""
        if self._worker is not None:
            self._worker.stop()

    def waiting(self) -> tuple[Waiting, ...]:
        """Why what is left was not done."""
        return self.plan().waiting

    def _steps(self, mode: Mode) -> Iterator[Step]:
        setting = Setting(mode, progress=self._progress, crash=self._crash)
        self._worker = Worker(self._repository, setting)
        for job in self._worker.run():
            if job.end is not None and job.end.done is not None:
                yield Step(job.end.done, job.seconds)
