"""What a check found, sorted by what may be done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sm.cowutil.base import CheckReport

LISTED = 50
"""How many findings of a kind are spelled out; a broken table can have millions."""


@dataclass(slots=True)
class Found:
    """Findings of one kind: all are counted, the first are described."""

    count: int = 0
    texts: list[str] = field(default_factory=list)

    def add(self, text: str, count: int = 1) -> None:
        """Note `count` findings that `text` describes together."""
        self.count += count
        if len(self.texts) < LISTED:
            self.texts.append(text)

    def report(self) -> tuple[str, ...]:
        """The descriptions, and that there are more."""
        more = ("and more that are not listed",) if len(self.texts) == LISTED else ()
        return (*self.texts, *more)


@dataclass(slots=True)
class Findings:
    """The result of a check.

    `tables`: entries of tables that cannot be right; to mend them is to guess at guest data.
    `counts`: refcounts too low, or flags that contradict them; both follow from the tables.
    `leaks`: clusters that nothing uses. `used_end`: up to where the file is in use, in bytes.
    """

    path: Path
    tables: Found = field(default_factory=Found)
    counts: Found = field(default_factory=Found)
    leaks: Found = field(default_factory=Found)
    used_end: int = 0

    def report(self) -> CheckReport:
        """The verdict for the storage manager."""
        return CheckReport(
            self.path,
            corruptions=(*self.tables.report(), *self.counts.report()),
            leaks=self.leaks.report(),
        )
