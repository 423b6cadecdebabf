"""What the collector of an SR does at this moment, as a file in the run folder for others to read.

One worker writes it, whole and atomically; whoever reads it sees from the owner whether that worker
still lives. Times in seconds since 1970, sizes in bytes.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from sm import decode, durable
from sm.owner import Owner

log = logging.getLogger(__name__)

MOST_BYTES = 64 << 20
"""Of a status: it names each image that waits, with the reason."""


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
        durable.write_file(path, json.dumps(asdict(self)).encode("utf-8"), sync=False)

    @classmethod
    def read(cls, run: Path, sr: str) -> Self | None:
        """What the last worker wrote; None where there was none, or nothing that can be read.

        See `lives`.
        """
        path = status_path(run, sr)
        try:
            found = cls(**_members(durable.read_file(path, MOST_BYTES)))
            Owner.parse(found.owner)
        except FileNotFoundError:
            return None
        except ValueError as error:
            log.warning("the status of a collector: %s: %s", path, error)
            return None
        return found if found.lives else replace(found, state=State.STOPPED, jobs=())


def status_path(run: Path, sr: str) -> Path:
    """Where the status of the collector of an SR is."""
    return run / "gc" / f"{sr}.status.json"


_NUMBER: decode.Types = (int, float)
_TEXT_OR_NONE: decode.Types = (str, type(None))

_STATUS: dict[str, decode.Types] = {
    "sr": (str,),
    "owner": (str,),
    "state": (str,),
    "since": _NUMBER,
    "written": _NUMBER,
    "next_look": (*_NUMBER, type(None)),
    "detail": (str,),
    "jobs": (list,),
    "waiting": (list,),
}
_JOB: dict[str, decode.Types] = {
    "id": (str,),
    "action": (str,),
    "images": (list,),
    "began": _NUMBER,
    "into": _TEXT_OR_NONE,
    "leaf": _TEXT_OR_NONE,
    "through": _TEXT_OR_NONE,
    "bytes_done": (int,),
    "bytes_total": (int,),
    "bytes_per_second": _NUMBER,
}
_DELAYED: dict[str, decode.Types] = {
    "image": (str,),
    "code": (str,),
    "reason": (str,),
    "next_attempt": (*_NUMBER, type(None)),
}


def _members(content: bytes) -> dict[str, Any]:
    """The members of a status from its file; ValueError for something else."""
    found = decode.members(content, _STATUS)
    return {
        **found,
        "state": State(found["state"]),
        "jobs": tuple(_job(decode.checked(job, _JOB)) for job in found["jobs"]),
        "waiting": tuple(Delayed(**decode.checked(each, _DELAYED)) for each in found["waiting"]),
    }


def _job(content: dict[str, Any]) -> RunningJob:
    return RunningJob(**{**content, "images": decode.texts(content["images"])})
