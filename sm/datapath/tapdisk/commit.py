"""Merging an inner image into its parent inside a tapdisk, and what is believed of it.

Tapdisk tells the end of a job once, with no word of failure; anything that pauses the VBD ends the
job; some builds answer a request that they cannot carry out with success; the oldest merges into
the base of the chain instead of the parent, and the next one dies of an image that is not open. So
all is checked before, and the end is decided by the image above the merged one, on disk: only if
that names the base now is the data in the base.

Whatever is wrong, the merged image still has all its data, and covers what was copied: give it back
to the image above it, and merge again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from sm.cowutil.base import ImageRef, ParentLink
from sm.cowutil.qcow2.util import Qcow2Util
from sm.cowutil.registry import Formats
from sm.datapath.base import Job, JobState, TapdiskFailed
from sm.datapath.tapdisk.links import told
from sm.datapath.tapdisk.wire import Progress
from sm.errors import Unimplemented

RUNNING = frozenset(
    {"created", "running", "paused", "ready", "standby", "waiting", "pending", "aborting"}
)
ENDED = "concluded"
UNKNOWN = frozenset({"undefined", "null"})
"""There is no job: none was begun, or somebody took note of its end, or a pause ended it."""

SLOWER = 1.5
"""By how much the time between two questions grows: each is a risk in some builds."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as noted: `top` goes into `base`, under `overlay`.

    `asked`: when tapdisk was last asked, in seconds of the monotonic clock; `interval`: for how
    many it is then left alone. `state` and what follows: what was last seen.
    """

    overlay: ImageRef
    top: ImageRef
    base: ImageRef
    asked: float
    interval: float
    cancelled: bool = False
    state: JobState = JobState.RUNNING
    done: int = 0
    total: int = 0
    error: str = ""

    @classmethod
    def parse(cls, noted: Mapping[str, Any]) -> Self:
        """From a note."""
        images = {
            key: ImageRef(Path(noted[key][0]), noted[key][1]) for key in ("overlay", "top", "base")
        }
        return cls(**{**noted, **images, "state": JobState(noted["state"])})

    @property
    def noted(self) -> dict[str, Any]:
        """For a note."""
        images = {"overlay": self.overlay, "top": self.top, "base": self.base}
        pairs = {key: [str(image.path), image.format] for key, image in images.items()}
        return {**asdict(self), **pairs}

    @property
    def job(self) -> Job:
        """What was last seen of it."""
        return Job(self.state, self.done, self.total, self.error)

    @property
    def ended(self) -> bool:
        """Whether its end is known."""
        return self.state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)

    def seen(self, job: Job, now: float, longest: float) -> Self:
        """What is noted after tapdisk was asked."""
        return replace(
            self,
            asked=now,
            interval=min(self.interval * SLOWER, longest),
            state=job.state,
            done=job.done,
            total=job.total,
            error=job.error,
        )


def find_place(
    chain: Sequence[ImageRef], top: ImageRef, base: ImageRef, *, into_parent: bool
) -> int:
    """The place of `top` in a chain of which it may be committed into `base`, just below it.

    `into_parent`: this tapdisk is known to merge into the parent. Without, only a merge into the
    base of the chain means the same to every build. Raises `Unimplemented` for what tapdisk does
    not do, `DatapathFailed` for what would be wrong.
    """
    if top not in chain or base not in chain:
        raise TapdiskFailed(f"{top.path} and {base.path} are not both in the chain")
    place = list(chain).index(top)
    if place == 0:
        raise TapdiskFailed(f"{top.path} is the leaf, which is never merged by tapdisk")
    if base in chain[: place + 1]:
        raise TapdiskFailed(f"{base.path} is not below {top.path}")
    if any(image.format != Qcow2Util.name for image in chain[: place + 1]):
        raise Unimplemented("tapdisk merges QCOW2 only: merge beside it, then refresh")
    if tuple(chain[place + 1 : place + 2]) != (base,):
        raise Unimplemented(
            f"tapdisk merges an image into its parent only: merge from {base.path.name} upwards,"
            " one after the other"
        )
    if place + 2 < len(chain) and not into_parent:
        raise Unimplemented(
            f"{base.path.name} is not the base of its chain: some builds of tapdisk would merge"
            " into that instead. Merge offline, or configure that this one merges into the parent"
        )
    return place


def check_sizes(formats: Formats, top: ImageRef, base: ImageRef) -> None:
    """Refuse a merge that would bring to light what lies behind the end of `top`."""
    sizes = [formats.get(each.format).info(each.path).virtual_size for each in (top, base)]
    if sizes[0] < sizes[1]:
        raise TapdiskFailed(
            f"{top.path.name} is smaller than {base.path.name}: what lies behind its end would show"
        )


def is_over(progress: Progress | None) -> bool:
    """Whether tapdisk says that no job runs; `progress` is None where it says that there is none.

    `DatapathFailed` for a state that is not known.
    """
    if progress is None or progress.status == ENDED or progress.status in UNKNOWN:
        return True
    if progress.status not in RUNNING:
        raise TapdiskFailed(f"tapdisk calls its commit {progress.status!r:.64}")
    return False


def judge(commit: Commit, progress: Progress | None, link: ParentLink | None) -> Job:
    """What became of a job that is over. `link`: what the image above names now, on disk."""
    done, total = commit.done, commit.total
    complete = True
    if progress is not None and progress.status == ENDED:
        done, total = progress.current, progress.total
        complete = done == total
    merged = link == ParentLink(commit.base.path.name, commit.base.format)
    if merged and complete:
        return Job(JobState.DONE, total, total)
    overlay = commit.overlay.path.name
    if merged:
        error = f"{overlay} names the base, but tapdisk ended after {done} of {total} bytes"
        return Job(JobState.FAILED, done, total, error)
    if link != ParentLink(commit.top.path.name, commit.top.format):
        error = f"{overlay} is over {told(link)} now, instead of {commit.base.path.name}"
        return Job(JobState.FAILED, done, total, error)
    if commit.cancelled:
        return Job(JobState.CANCELLED, done, total, "it was cancelled")
    error = f"it ended, or never began: {overlay} is still over {commit.top.path.name}"
    return Job(JobState.FAILED, done, total, error)
