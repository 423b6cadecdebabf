"""What there is to do in one SR, what must wait and why, and what came of what was tried."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable
from dataclasses import dataclass

from sm import claims, keys
from sm.cowutil.errors import ImageError
from sm.gc import recovery
from sm.gc.plan import costs, decision
from sm.gc.plan.decision import Decision
from sm.gc.plan.planner import Action, Delete, Plan, Waiting, subject_of
from sm.gc.plan.schedule import Candidate, Kind, due
from sm.gc.service.clock import Clock
from sm.gc.service.conditions import Barrier
from sm.gc.service.jobs import Job, Work
from sm.gc.state.ledger import Failure, Ledger, Result, doing_without
from sm.gc.state.status import Delayed
from sm.journal import Entry
from sm.repository import Repository
from sm.tree import Forest

log = logging.getLogger(__name__)

FIRST_PAUSE = 5.0
LONGEST_PAUSE = 60.0
"""How long work that gave way to somebody, or found an image locked, is not tried again.

Until they have what they want, that is. It doubles each time from one to the other.
"""


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work, and how the schedule sees it."""

    work: Work
    candidate: Candidate


class Backlog:
    """The work of one SR. With `once`, nothing waits for its time, and nothing is tried twice.

    What is `now` is a moment of the `clock`.
    """

    def __init__(self, repository: Repository, ledger: Ledger, clock: Clock, *, once: bool) -> None:
        self._repository = repository
        self._ledger = ledger
        self._clock = clock
        self._once = once
        self._tasks: list[Task] = []
        self._waiting: tuple[Waiting, ...] = ()
        self._failures: dict[str, Failure] = {}
        self._later: dict[Hashable, float] = {}
        self._pauses: dict[Hashable, float] = {}
        self._tried: dict[Hashable, Waiting] = {}
        self._costs: dict[Action, int] = {}

    @property
    def candidates(self) -> list[Candidate]:
        """All that could be begun when its time has come."""
        return [task.candidate for task in self._tasks]

    def take(self, candidate: Candidate) -> Task:
        """The work of a candidate, which is then no candidate any more."""
        (found,) = [task for task in self._tasks if task.candidate is candidate]
        self._tasks.remove(found)
        return found

    def update(self, found: Decision, now: float, *, recover_only: bool = False) -> None:
        """Take over a fresh look: unsettled entries first, then what the plan says."""
        sr = self._repository.uuid
        self._failures = {}
        if not self._once:
            with doing_without():
                self._ledger.bound(sr, self._clock.wall(now))
                self._failures = self._ledger.failures(sr)
        actions = () if recover_only else found.plan.actions
        works: list[Work] = [*recovery.unsettled(self._repository), *actions]
        self._waiting = found.plan.waiting
        subjects = {subject_of(action) for action in actions}
        since = dict.fromkeys(subjects, self._clock.wall(now))
        with doing_without():
            since = self._ledger.waiting_since(sr, subjects, self._clock.wall(now))
        asked = self._asked(works)
        self._tasks = [
            Task(work, self._candidate(number, work, found.forest, since, asked))
            for number, work in enumerate(works)
            if _key(work) not in self._tried
        ]
        self._costs = {each: cost for each, cost in self._costs.items() if each in actions}

    def ended(self, job: Job) -> None:
        """Remember how a job ended, and let its work wait if need be."""
        if job.end is None:
            raise ValueError(f"job {job.id} has not ended")
        sr, subject, end, key = self._repository.uuid, job.subject, job.end, _key(job.work)
        if end.result is Result.DONE:
            self._pauses.pop(key, None)
        elif end.result is Result.GAVE_WAY:
            pause = self._pauses.get(key, FIRST_PAUSE)
            self._later[key] = self._clock.now() + pause
            self._pauses[key] = min(LONGEST_PAUSE, pause * 2)
        elif end.result is Result.FAILED:
            self._later[key] = self._clock.now() + LONGEST_PAUSE  # unless the ledger says later
        with doing_without():
            self._ledger.finished(job.finished)
            if end.result is Result.DONE:
                self._ledger.succeeded(sr, subject)
            elif end.result is Result.FAILED:
                now = self._clock.wall(self._clock.now())
                self._ledger.failed(sr, subject, end.code, end.reason, now)
        if self._once and end.result is not Result.DONE:
            self._tried[key] = Waiting(subject, end.code, end.reason)
        if isinstance(job.work, Entry) and end.result is not Result.DONE:
            # Who asked for it may ask again; to try again by itself there is the ledger.
            claims.forget_request(self._repository, _claim_key(job.work))

    def forgive(self) -> None:
        """Let everything be tried again at once."""
        with doing_without():
            self._ledger.retry(self._repository.uuid)
        self._later.clear()

    def without_tried(self, plan: Plan, barrier: Barrier | None) -> Plan:
        """A plan without what was tried in vain, and what may not be done now; they are waiting."""
        waiting = dict(self._tried)
        if barrier is not None:
            for action in plan.actions:
                if not isinstance(action, Delete):
                    subject = subject_of(action)
                    said = Waiting(subject, barrier.state.value, barrier.reason)
                    waiting.setdefault(action, said)
        return Plan(
            tuple(action for action in plan.actions if action not in waiting),
            plan.waiting + tuple(waiting[each] for each in plan.actions if each in waiting),
        )

    def delayed(
        self, barrier: Barrier | None, now: float, busy: Collection[str]
    ) -> tuple[Delayed, ...]:
        """All that is not being done, and why; `busy` images are being worked on."""
        found = [
            Delayed(each.image, each.code, each.reason)
            for each in self._waiting
            if each.image not in busy
        ]
        for task in self._tasks:
            subject, candidate = _subject(task.work), task.candidate
            if not candidate.images.isdisjoint(busy):
                continue
            failure = self._failures.get(subject)
            if not due(candidate, now):
                code, reason = "overtaken", "somebody else has the images, or wants them"
                if failure is not None:
                    code, reason = failure.code, failure.reason
                next_attempt = self._clock.wall(candidate.not_before)
                found.append(Delayed(subject, code, reason, next_attempt))
            elif barrier is not None and candidate.kind is Kind.COPY:
                code = barrier.state.value
                found.append(Delayed(subject, code, barrier.reason, barrier.until))
            else:
                found.append(Delayed(subject, "queued", "other work goes first"))
        return tuple(found)

    def _candidate(
        self,
        number: int,
        work: Work,
        forest: Forest,
        since: dict[str, float],
        asked: frozenset[str],
    ) -> Candidate:
        subject = _subject(work)
        failure = self._failures.get(subject)
        not_before = self._later.get(_key(work), 0.0)
        if failure is not None:
            not_before = max(not_before, self._clock.moment(failure.next_attempt))
        if isinstance(work, Entry):
            tree = frozenset().union(*(_tree(forest, image) for image in work.images))
            if subject in asked or work.owner_ended(self._repository.settings.host_uuid):
                not_before = 0.0  # somebody needs it now; or it was never tried by this process
            images = work.images
            return Candidate(number, Kind.RECOVER, images, tree | images, not_before=not_before)
        images, tree = decision.images_of(work), _tree(forest, subject)
        kind = Kind.DELETE if isinstance(work, Delete) else Kind.COPY
        depth = max((forest.depth(uuid) for uuid in tree), default=0)
        cost, waits = self._cost(forest, work), self._clock.moment(since[subject])
        return Candidate(number, kind, images, tree | images, depth, cost, waits, not_before)

    def _cost(self, forest: Forest, action: Action) -> int:
        """Bytes to copy; read once, as the images of a planned merge are written by nobody."""
        if action not in self._costs:
            try:
                self._costs[action] = costs.cost(self._repository, forest, action).bytes_to_copy
            except (ImageError, OSError):
                self._costs[action] = 0  # the job itself will meet what is wrong, and tell
        return self._costs[action]

    def _asked(self, works: list[Work]) -> frozenset[str]:
        """The subjects of entries whose images somebody wants now."""
        entries = [work for work in works if isinstance(work, Entry)]
        if not entries:
            return frozenset()
        wanted = {
            claim.key
            for claim in claims.standing(self._repository)
            if claims.asked_to_yield(self._repository, claim)
        }
        return frozenset(entry.key for entry in entries if _claim_key(entry) in wanted)


def _claim_key(entry: Entry) -> str:
    return f"{keys.CLAIM_PREFIX}{entry.data['into']}"


def _subject(work: Work) -> str:
    return work.key if isinstance(work, Entry) else subject_of(work)


def _key(work: Work) -> Hashable:
    """What stays the same of a piece of work from one look to the next."""
    return (work.operation, work.key) if isinstance(work, Entry) else work


def _tree(forest: Forest, image: str) -> frozenset[str]:
    """All images of the tree of an image."""
    if image not in forest:
        return frozenset()
    return frozenset(node.uuid for node in forest.subtree(forest.root(image)))
