"""Timing several ways to do one thing in turn, and the rows of the table that come of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Target:
    """What a ratio of our cost to the other's should be at most."""

    ratio: float
    text: str

    @classmethod
    def within(cls, factor: float) -> Target:
        """At most `factor` times the cost of the other."""
        return cls(factor, f"within {factor:g}x")

    @classmethod
    def faster(cls, factor: float) -> Target:
        """At least `factor` times faster than the other."""
        return cls(1 / factor, f"{factor:g}x faster")


@dataclass(frozen=True)
class Row:
    """One comparison; `ours` and `theirs` in `unit`. `theirs` is None where it could not be had."""

    bench: str
    what: str
    ours: float
    against: str
    theirs: float | None
    target: Target | None = None
    unit: str = "ms"

    @property
    def ratio(self) -> float | None:
        """Our cost in units of the other's."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a ratio."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio <= self.target.ratio

    def cells(self) -> tuple[str, ...]:
        """The row as words."""
        theirs = "not here" if self.theirs is None else f"{self.theirs:.4g} {self.unit}"
        met = {True: "yes", False: "MISSED", None: ""}[self.met]
        return (
            self.bench,
            self.what,
            f"{self.ours:.4g} {self.unit}",
            self.against,
            theirs,
            _spelled(self.ratio),
            self.target.text if self.target else "",
            met,
        )

    def document(self) -> dict[str, object]:
        """The row as JSON has it."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def _spelled(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.2f}x" if ratio >= 0.6 else f"{1 / ratio:.1f}x faster"


HEADINGS = ("bench", "what", "ours", "against", "theirs", "ratio", "target", "met")


def in_turn(
    works: Mapping[str, Work], repeat: int = 5, prepare: Work | None = None
) -> dict[str, float]:
    """The median milliseconds of each work, done one after the other, `repeat` times over.

    `prepare` runs before each of them and is not timed. The first round only warms up where there
    is more than one.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeat + (repeat > 1)):
        for name, work in works.items():
            if prepare is not None:
                prepare()
            began = time.perf_counter()
            work()
            if number or repeat == 1:
                times[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(taken) for name, taken in times.items()}


def table(rows: list[Row]) -> str:
    """All rows, aligned."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
