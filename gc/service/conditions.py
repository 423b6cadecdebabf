"""Whether the collector of an SR may work now, from what lies outside of the images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from sm.errors import SmError, SrUnavailable
from sm.gc.state.status import State
from sm.gc.state.switches import Switches, begin_anew, read
from sm.hold import holder
from sm.repository import Repository

CLOCK_SKEW = 60.0
"""Seconds by which the clocks of two hosts may differ."""


class Leave(Enum):
    """Why a collector lets go of its SR; the value is the name of the SMAPI code."""

    DETACHED = "SRUnavailable"
    NOT_MASTER = "LVMMaster"
    HELD_OFF = "EGAIN"
    """Somebody wants it for a moment."""


class LetGo(SmError):
    """The SR is not this collector's to work on; `leave` says why."""

    def __init__(self, leave: Leave, why: str) -> None:
        super().__init__(why, name=leave.value)
        self.leave = leave


@dataclass(frozen=True, slots=True)
class Barrier:
    """Why nothing is copied now. `until`: when that ends by itself, in seconds since 1970."""

    state: State
    reason: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """One look. `leave`: whether the SR must be let go, and `why`, in words."""

    switches: Switches
    leave: Leave | None = None
    why: str = ""

    def require(self) -> None:
        """Raise `LetGo` unless the SR may be worked on."""
        if self.leave is not None:
            raise LetGo(self.leave, self.why)


def look(repository: Repository) -> Conditions:
    """Look afresh at attachment, mastership, requests and switches. Raises `SmError`."""
    run, uuid, host = repository.settings.run, repository.uuid, repository.settings.host_uuid
    try:
        repository.require_attached()
    except SrUnavailable as error:
        return Conditions(Switches(), Leave.DETACHED, error.detail)
    asking = holder(run, uuid, host)
    if asking is not None:
        return Conditions(Switches(), Leave.HELD_OFF, f"{asking} wants the SR")
    record = repository.pool.sr_by_uuid(uuid)
    if not repository.pool.is_sr_master(record):
        why = f"another host is the master of SR {uuid}"
        return Conditions(read(record), Leave.NOT_MASTER, why)
    return Conditions(read(record))


def correct_pause(repository: Repository, switches: Switches, now: float) -> None:
    """Have a pause that was set with a clock that is ahead of ours begin now, as long as it was."""
    pause = switches.pause
    if pause is not None and pause.since > now + CLOCK_SKEW:
        begin_anew(repository.pool, repository.pool.sr_by_uuid(repository.uuid), pause, now)


def barrier(
    switches: Switches,
    now: float,
    *,
    quiet_until: float,
    hurry: bool,
    local: Callable[[float], time.struct_time] = time.localtime,
) -> Barrier | None:
    """Why nothing may be copied at `now`; None where copies may run.

    With `hurry` an administrator asked for the work: then only what was switched off by one counts.
    """
    if not switches.collect:
        return Barrier(State.DISABLED, "gc=false is set on the SR")
    pause = switches.paused(now)
    if pause is not None:
        said = f": {pause.reason}" if pause.reason else ""
        return Barrier(State.PAUSED, f"paused by {pause.by}{said}", pause.until)
    if hurry:
        return None
    if now < quiet_until:
        return Barrier(State.QUIET, "the SR was attached a moment ago", quiet_until)
    if switches.hours is not None:
        clock = local(now)
        minutes = switches.hours.minutes_until(clock.tm_hour * 60 + clock.tm_min)
        if minutes:
            opens = now + minutes * 60 - clock.tm_sec
            return Barrier(State.OUTSIDE_HOURS, "it is outside of gc-hours", opens)
    return None
