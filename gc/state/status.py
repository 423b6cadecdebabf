"""What the collector of an SR does at this moment, as a file in the run folder for others to read.

One worker writes it, whole and atomically; whoever reads it sees from the owner whether that worker
still lives. Times in seconds since 1970, sizes in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Self

from sm.durable import TEMPORARY_PREFIX
from sm.owner import Owner


class State(StrEnum):
    """What a worker is at."""

    RECOVERING = "recovering"
    WORKING = "working"
    IDLE = "idle"
    QUIET = "quiet"
    """Too soon after the SR was attached."""
    OUTSIDE_HOURS = "outside-hours"
    PAUSED = "paused"
    DISABLED = "disabled"
    STOPPING = "stopping"
    STOPPED = "stopped"
    """Nobody: what is read where no worker lives."""


@dataclass(frozen=True, slots=True)
class RunningJob:
    """One piece of work under way. `bytes_per_second` is of the last seconds; 0 where not known."""

    id: str
    action: str
    images: tuple[str, ...]
    began: float
    into: str | None = None
    leaf: str | None = None
    through: str | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_per_second: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the present speed; None where that is not known."""
        if self.bytes_per_second <= 0:
            return None
        return max(0, self.bytes_total - self.bytes_done) / self.bytes_per_second


@dataclass(frozen=True, slots=True)
class Delayed:
    """An image that is not merged or deleted now, and why; `next_attempt` where one is fixed."""

    image: str
    code: str
    reason: str
    next_attempt: float | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """Everything about one SR's collector. `next_look` is when it looks again without a kick."""

    sr: str
    owner: str
    state: State
    since: float
    written: float
    next_look: float | None = None
    detail: str = ""
    jobs: tuple[RunningJob, ...] = ()
    waiting: tuple[Delayed, ...] = field(default=())

    @property
    def lives(self) -> bool:
        """Whether the worker that wrote this still runs; judged on its own host."""
        owner = Owner.parse(self.owner)
        return not owner.ended(owner.host)

    def write(self, run: Path) -> None:
        """Replace what is in the run folder."""
        path = status_path(run, self.sr)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not synced: it is about a moment, and a boot ends whoever wrote it.
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def read(cls, run: Path, sr: str) -> Self | None:
        """What the last worker wrote; None where there was none. See `lives`."""
        try:
            content = json.loads(status_path(run, sr).read_bytes())
        except FileNotFoundError:
            return None
        found = cls(
            **{
                **content,
                "state": State(content["state"]),
                "jobs": tuple(_job(job) for job in content["jobs"]),
                "waiting": tuple(Delayed(**delayed) for delayed in content["waiting"]),
            }
        )
        return found if found.lives else replace(found, state=State.STOPPED, jobs=())


def status_path(run: Path, sr: str) -> Path:
    """Where the status of the collector of an SR is."""
    return run / "gc" / f"{sr}.status.json"


def _job(content: dict[str, object]) -> RunningJob:
    images = content["images"]
    named = tuple(map(str, images)) if isinstance(images, Sequence) else ()
    return RunningJob(**{**content, "images": named})  # type: ignore[arg-type]
