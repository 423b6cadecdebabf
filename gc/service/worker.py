"""The collector of one SR at work: look, decide, start what may start, and look again.

One thread decides; each piece of work has a thread of its own (`jobs.py`). Decisions are taken from
fresh looks, never from what was seen before: a kick only says that it is time to look. So none is
lost, and a collector that starts anew goes on where the last one stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from sm import claims, process, snapshot
from sm.cowutil.base import Progress, ToolResult, no_progress
from sm.cowutil.errors import Cancelled, ImageError
from sm.cowutil.registry import Formats
from sm.errors import SmError
from sm.gc.copying import resume
from sm.gc.copying.control import Control
from sm.gc.merges.merge import Halted, Overtaken
from sm.gc.plan import schedule
from sm.gc.plan.decision import decide
from sm.gc.plan.planner import Action
from sm.gc.plan.schedule import Candidate, Kind, Running
from sm.gc.service import conditions
from sm.gc.service.backlog import Backlog, Task
from sm.gc.service.clock import Clock
from sm.gc.service.conditions import Barrier, Conditions
from sm.gc.service.ear import AT_REST, ENDED, Ear, asked_by
from sm.gc.service.jobs import Job
from sm.gc.service.report import Reporter
from sm.gc.state.ledger import Ledger
from sm.gc.state.status import State
from sm.gc.state.switches import Switches
from sm.hosts import serving
from sm.hosts.serving import ServedElsewhere
from sm.kick import socket_path
from sm.owner import Owner
from sm.repository import Repository
from sm.sr import scan_sr

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 300.0
"""How long to wait for a kick before looking anyway."""

GLANCE_SECONDS = 3.0
"""How often a collector at rest looks whether the names in the SR changed, or its switches."""

BUSY_SECONDS = 0.5
"""How often one at work looks at its switches, and says how far it is."""

STOP_SECONDS = 1.2
"""For jobs to come to a safe point when told to stop. What then remains is as after a crash."""

TROUBLE_SECONDS = 10.0
"""How long to wait when the SR or the pool could not be looked at."""


class Mode(Enum):
    """How long a worker goes on."""

    SERVICE = auto()
    """Until it is told to stop, or the SR is not this host's to collect any more."""

    ONCE = auto()
    """Until nothing is left that can be done now; what failed is not tried twice."""

    RECOVER = auto()
    """Until what an earlier process left is settled, as far as it can be."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What surrounds a worker. `parent`: the descriptor of a pipe whose end it must not outlive.

    `quiet_seconds`: for so long nothing is copied by itself.
    """

    mode: Mode
    quiet_seconds: float = 0.0
    parent: int | None = None
    progress: Progress = no_progress
    crash: Callable[[], None] | None = None
    """Ends the process when a job comes to no safe point. Without it the job is waited for."""


class Worker:
    """Collects one SR, whose `collector` lock is held by the caller."""

    def __init__(self, repository: Repository, setting: Setting) -> None:
        settings = repository.settings
        self._setting = setting
        self._once = setting.mode is not Mode.SERVICE
        self._copies = settings.gc_parallel
        self._repository = replace(repository, formats=Formats(self._run_tool))
        self._clock = Clock()
        self._quiet_until = self._clock.now() + setting.quiet_seconds
        ledger = Ledger(settings.ledger)
        self._backlog = Backlog(self._repository, ledger, self._clock, once=self._once)
        owner = Owner.this_process(settings.host_uuid, "sm-gc")
        self._reporter = Reporter(self._repository, owner)
        self._ear: Ear | None = None
        self._jobs: list[Job] = []
        self._askers: list[str] = []
        self._switches = Switches()
        self._stopping = False
        self._trouble = ""
        self._mark = ""
        self._look_at = 0.0
        self._elsewhere: list[ServedElsewhere] = []
        self._untidy = True

    def stop(self) -> None:
        """Have it end within `STOP_SECONDS`; may be called by any thread and signal handler."""
        self._stopping = True
        if self._ear is not None:
            self._ear.wake()

    def run(self) -> Iterator[Job]:
        """Work; yields each job that has ended.

        Raises what `conditions.Conditions.require` does when the SR must be let go, and `SmError`
        when it cannot be looked at, unless it is to go on as a service.
        """
        self._repository.require_attached()
        path = socket_path(self._repository.settings.run, self._repository.uuid)
        with Ear.open(path, self._setting.parent) as ear:
            self._ear = ear
            try:
                while not self._stopping:
                    yield from self._ended_jobs()
                    if self._turn(ear):
                        break
                    ear.wait(self._patience())
                    self._stopping = self._stopping or ear.orphaned
            except BaseException:
                # Whatever ends us, such as ctrl-C: what the jobs came to is remembered.
                self._halt_all()
                for job in self._ended_jobs():
                    log.info("job %s has ended", job.id)
                raise
            else:
                self._halt_all()
            finally:
                self._answer(ear, ENDED)
                self._ear = None
            yield from self._ended_jobs()

    def live(self) -> None:
        """Give a sign of life while it does not run."""
        self._reporter.live()

    def unfinished(self) -> tuple[Barrier | None, Backlog]:
        """Why nothing more is copied, and what was tried in vain, after `run` has ended."""
        return self._barrier(self._clock.now()), self._backlog

    def _turn(self, ear: Ear) -> bool:
        """Look where it is time to, and start what may start; whether all is done."""
        now = self._clock.now()
        messages = ear.heard()
        asking = [name for name in map(asked_by, messages) if name is not None]
        if asking:
            self._askers += asking
            self._backlog.forgive()
        try:
            found = conditions.look(self._repository)
            found.require()
            self._heed(found, now)
            mark = self._repository.store.change_mark()
            if messages or mark != self._mark or now >= self._look_at:
                self._look(mark, now)
        except conditions.LetGo:
            raise
        except (SmError, ImageError, OSError) as error:
            if self._once:
                raise
            self._note_trouble(error, now)
        barrier = self._barrier(now)
        started = self._start(barrier, now)
        self._report(barrier, now)
        if started or self._jobs:
            return False
        if self._untidy and not self._trouble:
            self._tidy()
        self._answer(ear, AT_REST)
        return self._once

    def _answer(self, ear: Ear, message: bytes) -> None:
        """Tell all who asked for work."""
        for name in self._askers:
            ear.answer(name, message)
        self._askers.clear()

    # Looking

    def _heed(self, found: Conditions, now: float) -> None:
        """Go by the switches as they are now; copies that are not to be go no further."""
        conditions.correct_pause(self._repository, found.switches, self._clock.wall(now))
        if found.switches != self._switches:
            self._look_at = 0.0
            for problem in found.switches.problems:
                log.warning("%s", problem)
        self._switches = found.switches
        barrier = self._barrier(now)
        if barrier is not None:
            for job in self._jobs:
                if job.running.kind is Kind.COPY:
                    job.control.halt(Halted(barrier.state.value, barrier.reason))

    def _look(self, mark: str, now: float) -> None:
        repository = self._repository
        self._elsewhere = serving.publish_everywhere(repository)
        with repository.locked("plan"):
            if not self._mark:
                repository.store.remove_unfinished()
            if any(entry.operation == snapshot.OPERATION for entry in repository.journal.entries()):
                snapshot.recover(repository)
            found = decide(repository, self._elsewhere)
        self._untidy = self._untidy or now >= self._look_at
        self._trouble, self._mark, self._look_at = "", mark, now + LOOK_AGAIN_SECONDS
        self._backlog.update(found, now, recover_only=self._setting.mode is Mode.RECOVER)

    def _note_trouble(self, error: Exception, now: float) -> None:
        if str(error) != self._trouble:
            log.warning("the SR cannot be looked at: %s", error)
        self._trouble, self._look_at = str(error), now + TROUBLE_SECONDS

    def _barrier(self, now: float) -> Barrier | None:
        hurry = self._once or bool(self._askers)
        wall = self._clock.wall
        return conditions.barrier(
            self._switches, wall(now), quiet_until=wall(self._quiet_until), hurry=hurry
        )

    # Working

    def _start(self, barrier: Barrier | None, now: float) -> bool:
        """Begin what may begin; whether anything has."""
        if self._trouble:
            return False
        candidates: Collection[Candidate] = self._backlog.candidates
        if barrier is not None:
            candidates = [each for each in candidates if each.kind is not Kind.COPY]
        running = [job.running for job in self._jobs]
        chosen = schedule.choose(candidates, running, copies=self._copies, now=now)
        for candidate in chosen:
            self._begin(self._backlog.take(candidate), candidate)
        return bool(chosen)

    def _begin(self, task: Task, candidate: Candidate) -> None:
        job = Job(
            self._repository,
            task.work,
            Running(candidate.kind, candidate.images, candidate.tree),
            Control(self._progress, self._share),
            self._confirm,
            self._wake,
        )
        self._jobs.append(job)
        job.start()

    def _confirm(self, action: Action) -> None:
        """Decide anew under the SR lock: since the plan was made, names may have changed."""
        found = conditions.look(self._repository)
        if found.leave is not None:
            raise Overtaken(found.why)
        if action not in decide(self._repository, self._elsewhere).plan.actions:
            raise Overtaken("the images changed since the work was planned")

    def _ended_jobs(self) -> Iterator[Job]:
        """The jobs that have ended, each noted in the ledger."""
        for job in list(self._jobs):
            if not job.over:
                continue
            self._jobs.remove(job)
            if job.defect is not None:
                raise job.defect
            self._look_at, self._untidy = 0.0, True
            self._backlog.ended(job)
            yield job

    def _halt_all(self) -> None:
        """Have all jobs stop, and wait until they have, for at most `STOP_SECONDS`."""
        now, deadline = self._clock.now(), time.monotonic() + STOP_SECONDS
        for job in self._jobs:
            job.control.halt(Cancelled("told to stop"))
        if self._jobs:
            self._reporter.write(State.STOPPING, self._clock.wall(now), jobs=self._jobs)
        for job in self._jobs:
            while not job.join(max(0.0, deadline - time.monotonic())):
                if self._setting.crash is not None:
                    # While we hold the lock: nobody else may be at the images beside the job.
                    log.warning("job %s comes to no safe point; it is left as by a crash", job.id)
                    self._setting.crash()
                deadline = time.monotonic() + STOP_SECONDS
        waiting = self._backlog.delayed(None, now, self._busy())
        self._reporter.write(State.STOPPED, self._clock.wall(now), waiting=waiting)

    def _tidy(self) -> None:
        """Bring the records in line, now that nothing is under way."""
        claims.forget_requests(self._repository)
        with self._repository.locked("sm-gc"):
            resume.forget_stale(self._repository, scan_sr(self._repository).forest)
        self._untidy = False

    def _share(self) -> int | None:
        """What one copy may take of the limit: it is divided by how many may run at once."""
        limit = self._switches.bytes_per_second
        return None if limit is None else max(1, limit // self._copies)

    def _progress(self, done: int, total: int) -> None:
        """Tell how far all copies together are; called by the threads that copy."""
        del done, total
        controls = [job.control for job in list(self._jobs) if job.running.kind is Kind.COPY]
        self._setting.progress(sum(c.done for c in controls), sum(c.total for c in controls))

    def _run_tool(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        accept: Collection[int] = (0,),
        inspect: bool = False,
        watch: Callable[[str], None] | None = None,
    ) -> ToolResult:
        """As `process.run`, but what works on more than a header ends when we are told to stop."""

        def watched(text: str) -> None:
            if self._stopping and not inspect:
                raise Cancelled("told to stop")
            if watch is not None:
                watch(text)

        return process.run(argv, timeout=timeout, accept=accept, inspect=inspect, watch=watched)

    # Telling, and waiting

    def _report(self, barrier: Barrier | None, now: float) -> None:
        if any(job.running.kind is not Kind.RECOVER for job in self._jobs):
            state = State.WORKING
        elif self._jobs:
            state = State.RECOVERING
        else:
            state = State.IDLE if barrier is None else barrier.state
        detail = self._trouble or "; ".join(self._switches.problems)
        if not detail and barrier is not None:
            detail = barrier.reason
        self._reporter.write(
            state,
            self._clock.wall(now),
            jobs=self._jobs,
            waiting=self._backlog.delayed(barrier, now, self._busy()),
            next_look=self._clock.wall(self._look_at),
            detail=detail,
        )

    def _busy(self) -> frozenset[str]:
        """The images that are being worked on."""
        return frozenset().union(*(job.running.images for job in self._jobs))

    def _wake(self) -> None:
        ear = self._ear
        if ear is not None:
            ear.wake()

    def _patience(self) -> float:
        """Seconds until there may be something to do without anybody saying so."""
        now = self._clock.now()
        if self._jobs:
            return BUSY_SECONDS
        times = [now + GLANCE_SECONDS, self._look_at]
        upcoming = schedule.next_time(self._backlog.candidates, now)
        if upcoming is not None:
            times.append(upcoming)
        return max(0.05, min(times) - now)
