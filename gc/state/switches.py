"""What an administrator says about the collector of one SR, in keys of the SR; read live.

In other-config: `gc`, and `gc-rate-mib` (MiB copied per second, all copies of the SR together) and
`gc-hours` (such as `22:00-06:00`, local time: when copies may run). In sm-config, because it is
ours to write: `gc-paused`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self

from sm import decode
from sm.errors import DuplicateKey, InvalidArgument
from sm.pool.base import Pool, SrRecord

RATE = "gc-rate-mib"
HOURS = "gc-hours"
PAUSED = "gc-paused"

DAY_MINUTES = 24 * 60
PAUSE_SECONDS = 24 * 3600.0
"""A pause ends by itself after so long, unless it was given another end."""

_PAUSE: Mapping[str, decode.Types] = {
    "by": (str,),
    "since": (int, float),
    "until": (int, float),
}

_HOURS = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Hours:
    """A daily window, in minutes since midnight; `end` is no part of it, and may be before `begin`.

    The same minute twice is the whole day.
    """

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HH:MM-HH:MM`; raises `InvalidArgument`."""
        found = _HOURS.fullmatch(text.strip())
        if found is None:
            raise InvalidArgument(f"{HOURS} is like 22:00-06:00, not {text!r}")
        begin_hour, begin_minute, end_hour, end_minute = map(int, found.groups())
        return cls(begin_hour * 60 + begin_minute, end_hour * 60 + end_minute)

    def minutes_until(self, minute: int) -> int:
        """How long until the window opens, from `minute` of the day; 0 inside of it."""
        length = (self.end - self.begin) % DAY_MINUTES or DAY_MINUTES
        if (minute - self.begin) % DAY_MINUTES < length:
            return 0
        return (self.begin - minute) % DAY_MINUTES


@dataclass(frozen=True, slots=True)
class Pause:
    """Who (`user@host`) lets the collector rest, from when until when, and why."""

    by: str
    since: float
    until: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Switches:
    """All of it. `problems` says which keys have a value that is not understood, and has no effect.

    `pause` may be over: see its end.
    """

    collect: bool = True
    bytes_per_second: int | None = None
    hours: Hours | None = None
    pause: Pause | None = None
    problems: tuple[str, ...] = ()

    def paused(self, now: float) -> Pause | None:
        """The pause that holds at this moment."""
        return self.pause if self.pause is not None and now < self.pause.until else None


def read(sr: SrRecord) -> Switches:
    """What the record of an SR says."""
    config: Mapping[str, str] = sr.other_config
    problems: list[str] = []
    rate, hours, pause = None, None, None
    if RATE in config:
        try:
            rate = parse_rate(config[RATE])
        except InvalidArgument as error:
            problems.append(error.detail)
    if HOURS in config:
        try:
            hours = Hours.parse(config[HOURS])
        except InvalidArgument as error:
            problems.append(error.detail)
    if PAUSED in sr.sm_config:
        try:
            pause = Pause(**decode.members(sr.sm_config[PAUSED], _PAUSE, {"reason": (str,)}))
        except ValueError:
            problems.append(f"{PAUSED} is {sr.sm_config[PAUSED][:200]!r}; see 'sm gc resume'")
    return Switches(config.get("gc") != "false", rate, hours, pause, tuple(problems))


def parse_rate(text: str) -> int | None:
    """Bytes per second from MiB per second; None for no limit. Raises `InvalidArgument`."""
    try:
        rate = int(float(text) * (1 << 20))
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"{RATE} is a number of MiB per second, not {text!r}") from error
    if rate < 0:
        raise InvalidArgument(f"{RATE} is not negative: {text!r}")
    return rate or None


def pause(pool: Pool, sr: SrRecord, wanted: Pause) -> None:
    """Let the collector of an SR rest, on whatever host it is; replaces another pause."""
    if wanted.until <= wanted.since:
        raise InvalidArgument("a pause ends after it begins")
    text = json.dumps(asdict(wanted), separators=(",", ":"))
    while True:
        resume(pool, sr)
        try:
            pool.add_to_sr_sm_config(sr.ref, PAUSED, text)
        except DuplicateKey:
            continue  # somebody else paused it in this moment; the last one counts
        return


def begin_anew(pool: Pool, sr: SrRecord, present: Pause, now: float) -> None:
    """Let a pause begin at `now`, unless it is another one by now, or none."""
    if read(sr).pause == present:
        length = present.until - present.since
        pause(pool, sr, replace(present, since=now, until=now + length))


def resume(pool: Pool, sr: SrRecord) -> None:
    """Let the collector of an SR go on; it need not be paused."""
    pool.remove_from_sr_sm_config(sr.ref, PAUSED)
