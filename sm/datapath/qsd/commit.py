"""Merging inner images of an open chain, with the data durable before anything says so.

On finalising, qemu-storage-daemon 7.2 rewrites the header of the image above first and only then
flushes the base; killed in between, the disk's upper image would name a base that lacks data. So a
job is held when all is copied (`pending`), the base is flushed by reopening it, and only then is
the job finalised; and the rewritten header is synced from outside before the job counts as done.

States that a kill may leave: the upper image names the merged image, which still holds everything,
or the base, which then is complete. In both the disk reads as before. The base may be partly
written in the first; only the image above sees it, and covers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sm import durable
from sm.datapath.base import DatapathFailed, Job, JobState, OutcomeUnknown
from sm.datapath.qsd import nodes
from sm.datapath.qsd.graph import TOP, Node, format_options

if TYPE_CHECKING:  # asyncio is slow to import, and opening a disk needs none of it
    from sm.datapath.qsd.qmp import Qmp

JOB = "commit"
CANCELLED = "Operation canceled"
"""How the daemon words the error of a job that was cancelled."""


@dataclass(frozen=True, slots=True)
class Merge:
    """What a commit is about: `merged` (uppermost first) go into `base`, under `overlay`."""

    overlay: Node
    merged: tuple[Node, ...]
    base: Node
    below: Node | None

    @classmethod
    def find(cls, chain: Sequence[Node], top: int, base: int) -> Merge:
        """From the numbers of two nodes; the leaf is never merged here."""
        numbers = [node.number for node in chain]
        first, last = numbers.index(top), numbers.index(base)
        if not 0 < first < last:
            raise DatapathFailed(f"images {first} to {last} of a chain of {len(chain)}")
        below = chain[last + 1] if last + 1 < len(chain) else None
        return cls(chain[first - 1], tuple(chain[first:last]), chain[last], below)


def start(qmp: Qmp, merge: Merge, bytes_per_second: int) -> None:
    """Begin the job. Refuses what the daemon would not, and what would change the disk."""
    nodes.require_mergeable(qmp, (*merge.merged, merge.base))
    qmp.call(
        "block-commit",
        {
            "job-id": JOB,
            "device": TOP,
            "top-node": merge.merged[0].format,
            "base-node": merge.base.format,
            "backing-file": merge.base.image.path.name,
            "speed": bytes_per_second,
            "auto-finalize": False,
            "auto-dismiss": False,
        },
    )


def look(qmp: Qmp, merge: Merge) -> Job:
    """See how far the job is, and take the next step where one is due."""
    job = find_job(qmp)
    if job is None:
        # Jobs do not vanish by themselves, and before we dismiss one, its end is noted.
        return Job(JobState.FAILED, error="the daemon did not begin it")
    done, total = job["current-progress"], job["total-progress"]
    status = job["status"]
    if status == "pending":
        options = format_options(merge.base, merge.below, read_only=False)
        qmp.call("blockdev-reopen", {"options": [options]})
        qmp.call("job-finalize", {"id": JOB})
        return Job(JobState.RUNNING, done, total)
    if status != "concluded":
        return Job(JobState.RUNNING, done, total)
    error = job.get("error", "")
    if error:
        state = JobState.CANCELLED if error == CANCELLED else JobState.FAILED
        return Job(state, done, total, error)
    durable.sync_file(merge.overlay.image.path)
    return Job(JobState.DONE, done, total)


def limit(qmp: Qmp, bytes_per_second: int) -> None:
    """Let the job copy no faster; 0 for no limit. One that has copied all is left alone."""
    try:
        qmp.call("block-job-set-speed", {"device": JOB, "speed": bytes_per_second})
    except OutcomeUnknown:
        raise
    except DatapathFailed:
        job = find_job(qmp)
        if job is not None and job["status"] == "running":
            raise


def find_job(qmp: Qmp, name: str = JOB) -> dict[str, Any] | None:
    """The daemon's record of a job."""
    jobs: list[dict[str, Any]] = qmp.call("query-jobs")
    return next((job for job in jobs if job["id"] == name), None)


def dismiss(qmp: Qmp, left: Sequence[Node] | None) -> None:
    """Take note of the end; after a good one, close all images but those that are `left`."""
    if find_job(qmp) is not None:
        qmp.call("job-dismiss", {"id": JOB})
    if left is not None:
        nodes.sweep(qmp, left)
