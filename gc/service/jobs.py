"""One piece of work, in a thread and with a name of its own, from its beginning to its end."""

from __future__ import annotations

import errno
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from sm import log as logs
from sm.cowutil.errors import Cancelled, ImageBusy, ImageError
from sm.errors import HostUnreachable, SmError, SrNoSpace
from sm.gc import recovery
from sm.gc.copying.control import Control
from sm.gc.leaf_in_use import active_leaf
from sm.gc.merges import coalesce, leaf, pull
from sm.gc.merges.merge import Done, Halted, Overtaken, Postponed
from sm.gc.plan import costs
from sm.gc.plan.planner import ACTION_NAMES, Action, Coalesce, Delete, LeafCoalesce, subject_of
from sm.gc.plan.schedule import Running
from sm.gc.state.ledger import FinishedJob, Result
from sm.gc.state.status import RunningJob
from sm.journal import Entry
from sm.repository import Repository

log = logging.getLogger(__name__)

RECOVER = "recover"

DEFECT = "defect"
"""The code of a job that ended by a fault of ours."""

Work = Action | Entry
"""What a job does: an action of a plan, or to settle an entry that was left."""


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended; `done` where it reached its goal and that was an action."""

    result: Result
    done: Done | None = None
    code: str = ""
    reason: str = ""


class Job:
    """Work under way. `running` says what it keeps others from; `ended` is called at the end.

    `seconds` is how long it took, once it has ended; `began` is in seconds since 1970.

    `confirm` is called with the SR lock held before anything is done, and raises `Overtaken` when
    the work is not what should be done any more.
    """

    def __init__(
        self,
        repository: Repository,
        work: Work,
        running: Running,
        control: Control,
        confirm: Callable[[Action], None],
        ended: Callable[[], None],
    ) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.work = work
        self.running = running
        self.control = control
        self.began = time.time()
        self.seconds = 0.0
        self.end: End | None = None
        self.defect: BaseException | None = None
        self._repository = repository
        self._confirm_action = confirm
        self._ended = ended
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"job-{self.id}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self.end is not None or self.defect is not None

    def join(self, seconds: float) -> bool:
        """Wait for the end, at most so long; whether it has come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def subject(self) -> str:
        """The image by which the work is remembered."""
        return self.work.key if isinstance(self.work, Entry) else subject_of(self.work)

    @property
    def name(self) -> str:
        """What kind of work it is."""
        return RECOVER if isinstance(self.work, Entry) else ACTION_NAMES[type(self.work)]

    @property
    def status(self) -> RunningJob:
        """How far it is."""
        images, into, top, through = _described(self.work)
        return RunningJob(
            id=self.id,
            action=self.name,
            images=images,
            began=self.began,
            into=into,
            leaf=top,
            through=through,
            bytes_done=self.control.done,
            bytes_total=self.control.total,
            bytes_per_second=self.control.speed,
        )

    @property
    def finished(self) -> FinishedJob:
        """What is remembered of it, once it has ended."""
        if self.end is None:
            raise ValueError(f"job {self.id} has not ended")
        images, into, top, through = _described(self.work)
        done = self.end.done
        return FinishedJob(
            id=self.id,
            sr=self._repository.uuid,
            action=self.name,
            images=done.images if done else images,
            began=self.began,
            seconds=self.seconds,
            result=self.end.result,
            into=done.into if done else into,
            leaf=done.leaf if done else top,
            through=done.through if done else through,
            bytes_copied=done.bytes_copied if done else self.control.done,
            bytes_freed=done.bytes_freed if done else 0,
            pause_seconds=done.pause_seconds if done else 0.0,
            code=self.end.code,
            reason=self.end.reason,
        )

    def _run(self) -> None:
        with logs.about(sr=self._repository.uuid, vdi=self.subject, job=self.id):
            try:
                log.info("%s begins: %s", self.name, self.work)
                self.end = self._perform()
            except Exception as error:
                # A defect of ours in one piece of work must not keep the others from being done.
                log.exception("%s: a defect", self.name)
                said = f"{type(error).__name__}: {error}; the log has the details"
                self.end = End(Result.FAILED, None, DEFECT, said)
            except BaseException as error:  # noqa: BLE001 - the worker raises it in its own thread
                self.defect = error
            finally:
                self.seconds = time.monotonic() - self._started
                self._ended()

    def _perform(self) -> End:
        try:
            done = self._do()
        except (Overtaken, Cancelled, SmError, ImageError, OSError) as error:
            end = _judged(error)
            quiet = end.result is not Result.FAILED
            log.log(
                logging.INFO if quiet else logging.WARNING,
                "%s: %s: %s",
                self.name,
                end.result.value,
                error,
                exc_info=None if quiet else error,
            )
            return end
        log.info("%s: done: %s", self.name, done or "settled")
        return End(Result.DONE, done)

    def _do(self) -> Done | None:
        repository, work = self._repository, self.work
        if isinstance(work, Entry):
            recovery.settle(repository, work)
            return None
        if isinstance(work, Delete):
            return self._delete(work)
        if isinstance(work, LeafCoalesce) and work.through is not None:
            return active_leaf.merge(repository, work, self._confirm_action, self.control)
        way = costs.way(repository, repository.look(self.name).forest, work)
        if isinstance(way, costs.Pull):
            return pull.pull(repository, way, self._confirm, self.control)
        if isinstance(way, Coalesce):
            return coalesce.coalesce(repository, way, self._confirm, self.control)
        return leaf.leaf_coalesce(repository, way, self._confirm, self.control)

    def _confirm(self) -> None:
        if not isinstance(self.work, Entry):
            self._confirm_action(self.work)

    def _delete(self, action: Delete) -> Done:
        """Remove garbage, if it still is: decided anew from a scan under the SR lock."""
        repository = self._repository
        with repository.locked("delete"):
            self._confirm()
            freed = coalesce.remove_images(repository, list(action.images))
        return Done("delete", action.images, bytes_freed=freed)


def _described(work: Work) -> tuple[tuple[str, ...], str | None, str | None, str | None]:
    """Images, target, leaf, and the VDI whose datapath copies."""
    if isinstance(work, Entry):
        return tuple(sorted(work.images)), work.data.get("into"), None, work.data.get("vdi")
    if isinstance(work, Delete):
        return work.images, None, None, None
    through = None if work.through is None else work.through.vdi
    if isinstance(work, Coalesce):
        return work.images, work.into, None, through
    return (*work.images, work.into), work.into, work.leaf, through


def _judged(error: Exception) -> End:
    """What an error means for the future of the work."""
    if isinstance(error, Halted):
        return End(Result.STOPPED, None, error.code, str(error))
    if isinstance(error, Postponed):
        return End(Result.FAILED, None, error.code, str(error))
    if isinstance(error, Cancelled):
        return End(Result.STOPPED, None, "stopped", str(error))
    if isinstance(error, Overtaken | ImageBusy):
        return End(Result.GAVE_WAY, None, "overtaken", str(error))
    if isinstance(error, HostUnreachable):
        return End(Result.FAILED, None, "unreachable", str(error))
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or isinstance(error, SrNoSpace):
        return End(Result.FAILED, None, "no-space", str(error))
    return End(Result.FAILED, None, "failed", str(error))
