"""The collector of one SR: look, decide, do one thing, look again, until nothing is left to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from sm import claims, snapshot, users
from sm.cowutil.base import CowUtil, Progress, no_progress
from sm.cowutil.errors import ImageError
from sm.errors import HostUnreachable, SmError
from sm.gc import active_leaf, coalesce, leaf, merge
from sm.gc.merge import Done, Overtaken, Postponed
from sm.gc.planner import Action, Coalesce, Delete, LeafCoalesce, Plan, Situation, Waiting, plan
from sm.gc.recovery import recover
from sm.repository import Repository
from sm.scan import Scan
from sm.sr import scan_sr
from sm.users import User

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work as it ran: what was done, in how many seconds."""

    done: Done
    seconds: float


class Collector:
    """Works on one SR. `clock` gives seconds; `progress` hears of bytes copied and to copy."""

    def __init__(
        self,
        repository: Repository,
        progress: Progress = no_progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository = repository
        self._progress = progress
        self._clock = clock
        self._failed: dict[Action, Waiting] = {}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only collector of this SR on this host, as long as it is attached."""
        with self._repository.locks.hold("collector", self._repository.uuid, "sm-gc"):
            self._repository.require_attached()
            self._repository.require_master()
            yield

    def plan(self) -> Plan:
        """What would be done now. Changes nothing."""
        with self._repository.locked("plan"):
            return self._plan()

    def _plan(self) -> Plan:
        found = self._repository.scan()
        return self._without_failed(plan(found.forest, self._situation(found)))

    def _confirm(self, action: Action) -> None:
        """Decide anew under the SR lock: since the plan was made, names may have changed."""
        if action not in self._plan().actions:
            raise Overtaken("the images changed since the work was planned")

    def recover(self) -> None:
        """Finish or undo whatever an earlier process left. Only inside `alone`."""
        with self._repository.locked("recover"):
            snapshot.recover(self._repository)
        recover(self._repository)

    def run(self) -> Iterator[Step]:
        """Do all that can be done, one step at a time. Only inside `alone`.

        An action that fails is left out for the rest of the run and named in `waiting`.
        """
        self.recover()
        while (action := next(iter(self.plan().actions), None)) is not None:
            began = self._clock()
            try:
                done = self._perform(action)
            except (Overtaken, SmError, ImageError, OSError) as error:
                log.warning("%s: %s", action, error, exc_info=not isinstance(error, Overtaken))
                self._failed[action] = _failure(action, error)
                continue
            log.info("%s", done)
            yield Step(done, self._clock() - began)
        self._refresh()

    def waiting(self) -> tuple[Waiting, ...]:
        """Why what is left was not done."""
        return self.plan().waiting

    def _refresh(self) -> None:
        claims.forget_requests(self._repository)
        with self._repository.locked("sm-gc"):
            scan_sr(self._repository)

    def _perform(self, action: Action) -> Done:
        if isinstance(action, Delete):
            return self._delete(action)
        confirm = partial(self._confirm, action)
        if isinstance(action, Coalesce):
            return coalesce.coalesce(self._repository, action, confirm, self._progress)
        if action.through is not None:
            return active_leaf.merge(self._repository, action, self._confirm, self._progress)
        return leaf.leaf_coalesce(self._repository, action, confirm, self._progress)

    def _delete(self, action: Delete) -> Done:
        """Remove garbage, if it still is: decided anew from a scan under the SR lock."""
        repository = self._repository
        with repository.locked("delete"):
            self._confirm(action)
            freed = coalesce.remove_images(repository, list(action.images))
        return Done("delete", action.images, bytes_freed=freed)

    def _situation(self, found: Scan) -> Situation:
        repository = self._repository
        records = repository.vdis()
        switches = repository.pool.sr_by_uuid(repository.uuid).other_config
        active: dict[str, tuple[User, ...]] = {}
        for user in users.of_disks(repository, found.forest.nodes):
            active[user.vdi] = (*active.get(user.vdi, ()), user)
        kept: dict[str, str] = {}
        for uuid, record in records.items():
            if uuid not in found.forest:
                continue
            reason = _leaf_kept(record.other_config, record.on_boot, record.allow_caching)
            if reason:
                kept[uuid] = reason
        return Situation(
            active=active,
            beside=_merged_beside(repository),
            no_leaf_coalesce=kept,
            held=repository.held(),
            collect=switches.get("gc") != "false",
            coalesce=switches.get("coalesce") != "false",
            leaf_coalesce=switches.get("leaf-coalesce") != "false",
        )

    def _without_failed(self, decided: Plan) -> Plan:
        return replace(
            decided,
            actions=tuple(action for action in decided.actions if action not in self._failed),
            waiting=decided.waiting
            + tuple(self._failed[action] for action in decided.actions if action in self._failed),
        )


def _merged_beside(repository: Repository) -> frozenset[str]:
    formats = map(repository.formats.get, repository.formats.names)
    return frozenset(
        each.name for each in formats if isinstance(each, CowUtil) and each.merged_beside
    )


def _leaf_kept(other_config: Mapping[str, str], on_boot: str, allow_caching: bool) -> str | None:
    if other_config.get("leaf-coalesce") == "false":
        return "leaf-coalesce=false is set on the VDI"
    if on_boot == "reset":
        return "the VDI is reset at each boot to what lies below its leaf"
    if allow_caching:
        return "the VDI is cached from its parent"
    return None


def _failure(action: Action, error: Exception) -> Waiting:
    subject = action.leaf if isinstance(action, LeafCoalesce) else action.images[0]
    if isinstance(error, Postponed):
        code = error.code
    elif isinstance(error, Overtaken):
        code = "overtaken"
    elif isinstance(error, HostUnreachable):
        code = "unreachable"
    elif isinstance(error, SmError) and error.code_name == "SRNoSpace":
        code = "no-space"
    else:
        code = "failed"
    return Waiting(subject, code, str(error))


def expected_bytes(repository: Repository, action: Action) -> int:
    """How many guest bytes an action would copy, from the tables of the images."""
    if isinstance(action, Delete):
        return 0
    forest = repository.look("plan").forest
    top = action.leaf if isinstance(action, LeafCoalesce) else action.images[0]
    chain = merge.chain_from(repository, forest, top)
    into = len(action.images) + isinstance(action, LeafCoalesce)
    if isinstance(action, LeafCoalesce) and action.through is not None:
        # Of an image that is being written the tables cannot be read.
        below = merge.bytes_to_copy(repository, chain[1:], into - 1) if action.images else 0
        return below + forest[top].used
    return merge.bytes_to_copy(repository, chain, into)
