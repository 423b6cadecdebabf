"""One worker for each SR of which this host is the master: started, watched, started again.

It holds nothing that a crash could lose: what should run follows from what is attached, and what
runs ends when the supervisor does. A worker that says nothing for too long, seen by its status
file, which stays the same, is killed like one that crashed: all that it did can be taken up again.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sm import process
from sm.attachment import Attachments
from sm.config import Settings
from sm.errors import SmError
from sm.gc.service.ear import Ear
from sm.gc.service.notify import Notifier
from sm.gc.service.passing_on import PassingOn
from sm.gc.state.status import RunningJob, State, Status, status_path
from sm.kick import PASS_ON, supervisor_path
from sm.locks import Locks
from sm.owner import Owner
from sm.pool.base import Pool

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often it looks after its workers, and what is attached, without being told to."""

POOL_SECONDS = 5.0
"""How often it asks the pool which of that it is the master of."""

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
"""The wait before a worker that crashed is started again doubles from one to the other."""

STEADY_SECONDS = 60.0
"""A worker that lived for so long has not crashed in a row."""

STOP_SECONDS = 2.5
"""For workers to end by themselves when told to; they need less."""


@dataclass
class _Charge:
    """One SR: its worker, and when and how that may be started (again). Times are monotonic.

    `sign`: the last sign of life that was seen of it, `heard` when it was seen first.
    """

    sr: str
    child: process.Child | None = None
    started: float = 0.0
    delay: float = 0.0
    not_before: float = 0.0
    sign: int | None = None
    heard: float = 0.0


class Supervisor:
    """Looks after the collectors of this host."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._attachments = Attachments(settings.run / "attached")
        self._charges: dict[str, _Charge] = {}
        self._passing_on = PassingOn(settings, pool)
        self._notifier = Notifier()
        self._stopping = threading.Event()
        self._ear: Ear | None = None
        self._trouble = ""
        self._attached: list[str] = []
        self._wanted: set[str] = set()
        self._ask_pool_at = 0.0

    def stop(self) -> None:
        """Have it end, and all workers with it; may be called by a signal handler."""
        self._stopping.set()
        if self._ear is not None:
            self._ear.wake()

    def run(self) -> None:
        """Look after the workers until told to stop. Raises `LockFailed` where another one does."""
        settings = self._settings
        locks = Locks(settings.locks, settings.host_uuid, settings.lock_seconds)
        with (
            locks.hold("supervisor", settings.host_uuid, "sm-gc", seconds=0),
            Ear.open(supervisor_path(settings.run)) as ear,
        ):
            self._ear = ear
            try:
                ready = False
                while not self._stopping.is_set():
                    self._passing_on.take(_to_pass_on(ear.heard()))
                    self._look()
                    self._tell(ready=ready)
                    ready = True
                    ear.wait(LOOK_SECONDS)
            finally:
                self._notifier.say(STOPPING="1", STATUS="stopping")
                self._ear = None
                self._end_all()

    # Workers

    def _look(self) -> None:
        wanted = self._want()
        for uuid in wanted - self._charges.keys():
            self._charges[uuid] = _Charge(uuid)
        for charge in list(self._charges.values()):
            self._reap(charge)
            if charge.sr in wanted:
                self._watch(charge)
            elif charge.child is None:
                del self._charges[charge.sr]
            else:
                charge.child.terminate()  # it has most likely seen for itself that it must end

    def _want(self) -> set[str]:
        """The SRs that are attached here and whose chains this host may change."""
        attached = [each.sr_uuid for each in self._attachments.all()]
        now = time.monotonic()
        if attached != self._attached or now >= self._ask_pool_at:
            try:
                known = {sr.uuid: sr for sr in self._pool.srs()}
                mine = (uuid for uuid in attached if uuid in known)
                self._wanted = {uuid for uuid in mine if self._pool.is_sr_master(known[uuid])}
                self._trouble = ""
            except SmError as error:
                if str(error) != self._trouble:
                    log.warning("what should run is not known, and stays as it is: %s", error)
                self._trouble = str(error)
            self._attached, self._ask_pool_at = attached, now + POOL_SECONDS
        return self._wanted

    def _reap(self, charge: _Charge) -> None:
        """Take note of the end of a worker."""
        if charge.child is None or charge.child.poll() is None:
            return
        code, now = charge.child.returncode, time.monotonic()
        if charge.child.stdin is not None:
            charge.child.stdin.close()
        charge.child = None
        if code == 0 or now - charge.started > STEADY_SECONDS:
            charge.delay = 0.0
        charge.delay = min(LONGEST_DELAY, charge.delay * 2) or FIRST_DELAY
        charge.not_before = now + charge.delay
        if code:
            said = f"status {code}" if code > 0 else f"signal {-code}"
            log.warning("the worker of SR %s ended with %s", charge.sr, said)

    def _watch(self, charge: _Charge) -> None:
        """Start the worker of an SR where none runs; kill one that hangs."""
        now = time.monotonic()
        if charge.child is None:
            if now >= charge.not_before and not self._other_works(charge.sr):
                self._start(charge)
        elif self._hangs(charge):
            seconds = self._settings.gc_hang_seconds
            log.error("the worker of SR %s says nothing for %g s; killed", charge.sr, seconds)
            charge.child.kill()

    def _start(self, charge: _Charge) -> None:
        argv = [sys.executable, "-m", "sm.gc.daemon", "--root", str(self._settings.root)]
        charge.started = time.monotonic()
        charge.child = process.start_dependent([*argv, "--sr", charge.sr, "--supervised"])
        log.info("the worker of SR %s is process %d", charge.sr, charge.child.pid)

    def _other_works(self, sr: str) -> bool:
        """Whether somebody else, such as `sm gc run`, collects the SR at this moment."""
        found = Status.read(self._settings.run, sr)
        return found is not None and found.state is not State.STOPPED

    def _hangs(self, charge: _Charge) -> bool:
        """Whether its sign of life is the same for too long; how old it says to be counts not."""
        now = time.monotonic()
        try:
            sign = status_path(self._settings.run, charge.sr).stat().st_mtime_ns
        except FileNotFoundError:
            sign = None
        if sign is not None and sign != charge.sign:
            charge.sign, charge.heard = sign, now
        return now - max(charge.started, charge.heard) > self._settings.gc_hang_seconds

    def _end_all(self) -> None:
        """Tell all workers to stop, and see that they do."""
        children = [charge.child for charge in self._charges.values() if charge.child is not None]
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            child.terminate()
        for child in children:
            with suppress(process.StillRunning):
                child.wait(max(0.0, deadline - time.monotonic()))
            if child.poll() is None:
                log.error("worker %d does not end; killed", child.pid)
                child.kill()
                child.wait()

    # Telling

    def _tell(self, *, ready: bool) -> None:
        """Tell systemd what is done; that all is alive only if each worker's loop turns."""
        charges = list(self._charges.values())
        states = {"STATUS": summary(self._statuses(charges))}
        if not ready:
            states = {"READY": "1", **states}
        if not any(charge.child is not None and self._hangs(charge) for charge in charges):
            states["WATCHDOG"] = "1"
        self._notifier.say(**states)

    def _statuses(self, charges: Sequence[_Charge]) -> list[Status | None]:
        found = []
        for charge in charges:
            status = Status.read(self._settings.run, charge.sr)
            pid = None if charge.child is None else charge.child.pid
            own = status is not None and Owner.parse(status.owner).pid == pid
            found.append(status if own else None)
        return found


def summary(statuses: Sequence[Status | None]) -> str:
    """One line about all SRs; None for one whose worker has said nothing yet."""
    if not statuses:
        return "no SR to collect"
    counts: dict[str, int] = {}
    jobs: list[RunningJob] = []
    for status in statuses:
        state = "starting" if status is None else status.state.value
        counts[state] = counts.get(state, 0) + 1
        jobs += () if status is None else status.jobs
    text = f"{len(statuses)} SRs: " + ", ".join(f"{n} {name}" for name, n in counts.items())
    if jobs:
        done, total = (sum(j.bytes_done for j in jobs), sum(j.bytes_total for j in jobs))
        speed = sum(job.bytes_per_second for job in jobs)
        text += f"; {len(jobs)} jobs, {done >> 20} of {total >> 20} MiB, {int(speed) >> 20} MiB/s"
    return text


def _to_pass_on(messages: Sequence[bytes]) -> list[str]:
    """The SRs whose masters are to be told; from whoever may write to our socket, so any text."""
    return [
        message.removeprefix(PASS_ON).decode("ascii", "replace")
        for message in messages
        if message.startswith(PASS_ON)
    ]
