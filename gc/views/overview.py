"""What is known of one SR's collector: by its worker, or without one by a look of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sm.gc.collector import Collector
from sm.gc.plan.planner import Action, Plan, subject_of
from sm.gc.state.ledger import Failure, Ledger, delay_after, doing_without
from sm.gc.state.status import Delayed, RunningJob, State, Status
from sm.journal import shown
from sm.repository import Repository

NO_WORKER = "stopped"
"""The reason of what only waits for somebody to do it; also the name of that state."""


@dataclass(frozen=True, slots=True)
class Overview:
    """One SR. `status` is what a living worker says; `actions` what we planned without one.

    `unfinished`: the journal entries that there are, in words.
    """

    state: State
    waiting: tuple[Delayed, ...]
    status: Status | None = None
    actions: tuple[Action, ...] = ()
    unfinished: tuple[str, ...] = ()

    @property
    def jobs(self) -> tuple[RunningJob, ...]:
        """The work under way, as far as it is a worker's."""
        return () if self.status is None else self.status.jobs


def overview(repository: Repository, ledger: Ledger, now: float) -> Overview:
    """Look at one SR; `now` in seconds since 1970. Changes nothing."""
    found = repository.journal.contents()
    unfinished = (
        *(f"{entry.operation} of {entry.key}" for entry in found.entries),
        *(f"{shown(each.name)}, which cannot be read" for each in found.unreadable),
    )
    status = living(repository)
    if status is not None:
        return Overview(status.state, status.waiting, status, unfinished=unfinished)
    plan = Collector(repository).plan()
    failures: dict[str, Failure] = {}
    with doing_without():
        failures = ledger.failures(repository.uuid)
    waiting = delayed(plan, failures, now)
    return Overview(State.STOPPED, waiting, None, plan.actions, unfinished)


def living(repository: Repository) -> Status | None:
    """What the worker of an SR says, while it lives."""
    status = Status.read(repository.settings.run, repository.uuid)
    return None if status is None or status.state is State.STOPPED else status


def delayed(plan: Plan, failures: Mapping[str, Failure], now: float) -> tuple[Delayed, ...]:
    """Why each image that a plan speaks of is not merged or deleted at this moment. Pure.

    `failures` by subject. What has not failed, or may be tried again, only lacks a worker.
    """
    found = [Delayed(each.image, each.code, each.reason) for each in plan.waiting]
    for action in plan.actions:
        failure = failures.get(subject_of(action))
        for image in action.images or (subject_of(action),):
            if failure is not None and failure.next_attempt > now:
                latest = min(failure.next_attempt, now + delay_after(failure.count))
                found.append(Delayed(image, failure.code, failure.reason, latest))
            else:
                found.append(Delayed(image, NO_WORKER, "no worker runs for the SR"))
    return tuple(found)
