"""How much room a thin volume is kept ahead of its writer, and what follows from a level. Pure.

All sizes in bytes. With S the spare (`thin_spare_mib`), and what is left between the end of what
was written and the end of the volume:

- less than 3/4 S left (`low`): the SR master is asked to make it S; if the SR has not as much, 3/4;
- less than 1/2 S left (`critical`): the users are held, until there is that much again;
- no more than 1/4 S is written in the time that it takes to hold them (`pace`), and 1/4 S is for
  the requests that are under way then, which are all let through (qemu 7.2).

A volume that has all that its disk can ever need is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sm.datapath.base import Level

REACTION_SECONDS = 0.5
"""From the moment when a mark is passed until no request is carried out any more, at most."""

RETRY_SECONDS = 2.0
"""Between two requests for room of which the first was refused."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What follows from the spare."""

    spare: int

    @property
    def low(self) -> int:
        """With less left, more is asked for."""
        return self.spare - self.spare // 4

    @property
    def critical(self) -> int:
        """With less left, nobody writes."""
        return self.spare // 2

    @property
    def under_way(self) -> int:
        """How much requests may be about that are under way at one moment."""
        return self.spare // 4

    @property
    def pace(self) -> int:
        """The bytes per second by which an image may grow whose users have to be held."""
        return int((self.critical - self.under_way) / REACTION_SECONDS)


class Trouble(StrEnum):
    """Why the last request for room failed."""

    NONE = ""
    NO_SPACE = "no space"
    NO_ANSWER = "no answer"


@dataclass(frozen=True, slots=True)
class Asking:
    """How the requests for room stand. `not_before`: the next, on the clock of `plan`."""

    under_way: bool = False
    trouble: Trouble = Trouble.NONE
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. `ask`: the size that the volume is to have, 0 for nothing.

    `wake`: the fill at which to look again.
    """

    hold: bool
    release: bool
    ask: int
    wake: int


def plan(level: Level, full: int, marks: Marks, asking: Asking, now: float) -> Plan:
    """What follows from a level. `full`: what the volume needs for the whole disk."""
    left = level.size - level.used
    complete = level.size >= full
    short = not complete and left < marks.critical
    ask = 0
    if not complete and left < marks.low and not asking.under_way and now >= asking.not_before:
        ahead = marks.low if asking.trouble is Trouble.NO_SPACE else marks.spare
        ask = min(full, level.used + ahead)
    passed = left < marks.low
    return Plan(
        hold=short and not level.held,
        release=level.held and not short,
        ask=ask,
        wake=level.size - (marks.critical if passed else marks.low),
    )


def refused(asking: Asking, trouble: Trouble, now: float) -> Asking:
    """After a request that failed: a smaller one follows the first for want of space at once."""
    at_once = trouble is Trouble.NO_SPACE and asking.trouble is not Trouble.NO_SPACE
    return Asking(trouble=trouble, not_before=now if at_once else now + RETRY_SECONDS)
