"""When a collector may copy: switches, pauses, hours, the quiet time; and limits on its speed."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sm.cli.gc_pause import parse_span, parse_time
from sm.errors import InvalidArgument
from sm.gc.copying.background import in_background
from sm.gc.copying.control import Control
from sm.gc.copying.throttle import Throttle
from sm.gc.service.conditions import barrier
from sm.gc.state.status import State
from sm.gc.state.switches import Hours, Pause, Switches, parse_rate, read
from sm.pool.records import SrRecord


def _record(other: dict[str, str], own: dict[str, str]) -> SrRecord:
    return SrRecord("ref", "uuid", "", "", "file", False, 0, 0, 0, own, other)


@pytest.mark.parametrize(
    ("text", "minute", "wait"),
    [
        ("22:00-06:00", 22 * 60, 0),
        ("22:00-06:00", 5 * 60 + 59, 0),
        ("22:00-06:00", 6 * 60, 16 * 60),
        ("22:00-06:00", 0, 0),
        ("01:30-02:00", 0, 90),
        ("01:30-02:00", 120, 23 * 60 + 30),
        ("9:00-9:00", 77, 0),
    ],
)
def test_hours(text: str, minute: int, wait: int) -> None:
    assert Hours.parse(text).minutes_until(minute) == wait


@pytest.mark.parametrize("text", ["", "22-06", "24:00-01:00", "1:00-2:60", "22:00-06:00x"])
def test_hours_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Hours.parse(text)


def test_switches_of_a_record() -> None:
    assert read(_record({}, {})) == Switches()
    paused = '{"by":"a@b","since":1,"until":9,"reason":"backup"}'
    found = read(
        _record(
            {"gc": "false", "gc-rate-mib": "1.5", "gc-hours": "1:00-2:00"}, {"gc-paused": paused}
        )
    )
    assert found == Switches(False, 3 << 19, Hours(60, 120), Pause("a@b", 1, 9, "backup"))
    assert (found.paused(8), found.paused(9)) == (found.pause, None)
    wrong = read(_record({"gc-rate-mib": "fast", "gc-hours": "night"}, {"gc-paused": "yes"}))
    assert (wrong.bytes_per_second, wrong.hours, wrong.pause) == (None, None, None)
    assert len(wrong.problems) == 3
    assert parse_rate("0") is None
    for text in ("-1", "nan", "inf", ""):
        with pytest.raises(InvalidArgument):
            parse_rate(text)


def test_what_keeps_from_copying() -> None:
    noon = time.mktime((2030, 6, 1, 12, 0, 30, 0, 0, -1))
    night = Switches(hours=Hours.parse("22:00-06:00"))

    def state(switches: Switches, *, quiet: float = 0.0, hurry: bool = False) -> State | None:
        found = barrier(switches, noon, quiet_until=quiet, hurry=hurry)
        return None if found is None else found.state

    pause = Switches(pause=Pause("a@b", 0, noon + 1))
    assert state(Switches()) is None
    assert state(Switches(collect=False), hurry=True) is State.DISABLED
    assert state(pause, hurry=True) is State.PAUSED
    assert state(Switches(pause=Pause("a@b", 0, noon))) is None
    assert state(Switches(), quiet=noon + 5) is State.QUIET
    assert state(Switches(), quiet=noon + 5, hurry=True) is None
    assert state(night) is State.OUTSIDE_HOURS
    assert state(night, hurry=True) is None
    found = barrier(night, noon, quiet_until=0, hurry=False)
    assert found is not None
    assert found.until is not None
    assert time.localtime(found.until)[3:6] == (22, 0, 0)


def test_spans_and_times_on_the_command_line() -> None:
    assert parse_span("1h30m") == 5400
    assert parse_span("2d") == 172800
    assert parse_time("1970-01-01T00:01+00:00") == 60
    for text in ("", "2", "h", "2h ", "-1h"):
        with pytest.raises(InvalidArgument):
            parse_span(text)
    with pytest.raises(InvalidArgument):
        parse_time("tomorrow")


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 100.0
        self.then: Callable[[], None] = lambda: None
        """Called in the middle of each sleep."""

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.1
        self.now += seconds / 2
        self.then()
        self.now += seconds / 2


def test_the_throttle_keeps_to_a_limit_that_changes() -> None:
    clock, limits = Clock(), [1000]
    throttle = Throttle(lambda: limits[0] or None, clock, clock.sleep)
    for _ in range(50):
        throttle.spend(100, lambda: None)
    assert 4.4 < clock.now - 100 < 5.1
    limits[0] = 10_000
    before = clock.now
    for _ in range(50):
        throttle.spend(100, lambda: None)
    assert clock.now - before < 0.6
    limits[0] = 0
    before = clock.now
    throttle.spend(1 << 40, lambda: None)
    assert clock.now == before


def slow_copy() -> tuple[Clock, Control]:
    """A copy of one byte a second, by a clock of its own."""
    clock = Clock()
    control = Control(limit=lambda: 1, clock=clock)
    control._throttle = Throttle(lambda: 1, clock, clock.sleep)
    return clock, control


def test_a_throttled_copy_hears_of_a_stop() -> None:
    """Within one sleep of its limit, by which it would take a quarter of an hour."""
    clock, control = slow_copy()
    clock.then = lambda: control.halt(KeyError("stop")) if clock.now > 200 else None
    with pytest.raises(KeyError):
        control(1000, 2000)
    assert 200 < clock.now <= 200.2
    assert (control.done, control.total, control.halted) == (1000, 2000, True)


def test_a_throttled_copy_gives_way() -> None:
    def wanted() -> None:
        if clock.now > 200:
            raise KeyError

    clock, control = slow_copy()
    control.give_way(wanted)
    with pytest.raises(KeyError):
        control(1000, 2000)
    assert 200 < clock.now <= 200.2
    by_tool = Control(limit=lambda: 1)
    by_tool.keeps_itself = True
    by_tool(1 << 40, 1 << 41)


def test_speed_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    control = Control(clock=clock)
    for second in range(20):
        clock.now += 1
        control(second * (100 if second < 10 else 1000), 100_000)
    assert 900 < control.speed < 1100


def test_background_work_is_idle_in_all_that_it_starts() -> None:
    """As ionice and ps see it; whoever waits for it stays as it was."""

    def look() -> tuple[str, str]:
        own = subprocess.run(["ionice"], capture_output=True, text=True, check=True).stdout
        stat = Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()
        return own.strip(), stat[16]

    def child_nice() -> str:
        return subprocess.run(["nice"], capture_output=True, text=True, check=True).stdout.strip()

    before = (look(), child_nice())
    assert in_background(lambda: (look(), child_nice())) == (("idle", "19"), "19")
    assert (look(), child_nice()) == before
    assert not re.match("idle", before[0][0])
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: 1 // 0)
