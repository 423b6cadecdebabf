"""Merging the leaf of an open chain, and all below it down to `base`, into `base`: the mirror job.

The job copies the leaf into the base and goes on with what is written meanwhile; the leaf stays in
charge. It is never told to complete by itself, because the daemon would then write on into an image
that has not the leaf's name, and the file with that name would grow stale without a sign of it.
Instead the disk's requests are held (`sm.datapath.qsd.freeze`), the rest is copied, and the job is
cancelled in the soft way, which flushes the base and leaves the graph as it is. Then all images are
closed, the base gets the leaf's name, and the chain is opened anew from the base.

That the requests are held above the images, and not by the job itself, has three reasons: a client
that slips in meets a refusal and not one of two images; a daemon that is told to end loses nothing
that it acknowledged; and the base's header is read anew, with the mark that it has by then.

A kill at any point leaves the leaf untouched, and the base partly written at most, which only the
leaf sees, and covers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sm.datapath.base import DatapathFailed, Job, JobState, NotInTime, OutcomeUnknown
from sm.datapath.qsd import nodes
from sm.datapath.qsd.commit import CANCELLED, find_job
from sm.datapath.qsd.graph import TOP, Node, format_options

if TYPE_CHECKING:  # asyncio is slow to import, and opening a disk needs none of it
    from sm.datapath.qsd.qmp import Qmp

JOB = "leaf"
POLL_SECONDS = 0.002
READY = "ready"
CONCLUDED = "concluded"


def start(qmp: Qmp, run: Sequence[Node]) -> None:
    """Begin the job on the leaf and the images below it, the last of which is the base."""
    nodes.require_mergeable(qmp, run)
    qmp.call(
        "block-commit",
        {
            "job-id": JOB,
            "device": TOP,
            "top-node": run[0].format,
            "base-node": run[-1].format,
            "auto-dismiss": False,
        },
    )


def look(qmp: Qmp) -> Job | None:
    """How far the job is; None when the daemon has none."""
    job = find_job(qmp, JOB)
    if job is None:
        return None
    error = job.get("error", "")
    if job["status"] == CONCLUDED:
        state = JobState.CANCELLED if error == CANCELLED else JobState.FAILED
        return Job(state, error=error or "it ended by itself")
    state = JobState.READY if job["status"] == READY else JobState.RUNNING
    return Job(state, job["current-progress"], job["total-progress"])


def finish(qmp: Qmp, deadline: float) -> None:
    """Have the rest copied while the disk's requests are held; base and leaf are then the same.

    `deadline` on the monotonic clock. `NotInTime` when it passes, `DatapathFailed` when the job
    fails; then `stop`.
    """
    told = False
    while (job := _require(qmp))["status"] != CONCLUDED:
        if job["status"] == READY and not told:
            # Without `force`, of a job that is ready: it syncs, and ends well (7.2).
            qmp.call("block-job-cancel", {"device": JOB})
            told = True
        if time.monotonic() > deadline:
            raise NotInTime("the rest of the leaf could not be copied in time")
        time.sleep(POLL_SECONDS)
    if job.get("error"):
        raise DatapathFailed(f"the leaf could not be merged: {job['error']}")
    if not told:
        raise DatapathFailed("the merge of the leaf was ended by somebody else")
    qmp.call("job-dismiss", {"id": JOB})


def stop(qmp: Qmp, seconds: float) -> None:
    """End the job, if there is one, and take note of it; the leaf goes on.

    `OutcomeUnknown` when it does not end within `seconds`.
    """
    deadline = time.monotonic() + seconds
    job = find_job(qmp, JOB)
    if job is None:
        return
    if job["status"] != CONCLUDED:
        qmp.call("job-cancel", {"id": JOB})
    while _require(qmp)["status"] != CONCLUDED:
        if time.monotonic() > deadline:
            raise OutcomeUnknown(f"the merge of the leaf has not ended after {seconds:g} s")
        time.sleep(POLL_SECONDS)
    qmp.call("job-dismiss", {"id": JOB})


def give_back(qmp: Qmp, chain: Sequence[Node], base: int) -> None:
    """Open the base, called by its number, as a parent is, after the job has ended badly.

    The daemon keeps it open for writing (7.2), and so keeps everybody else from opening it.
    """
    place = [node.number for node in chain].index(base)
    below = chain[place + 1] if place + 1 < len(chain) else None
    options = format_options(chain[place], below, read_only=True)
    qmp.call("blockdev-reopen", {"options": [options]})


def _require(qmp: Qmp) -> dict[str, Any]:
    job = find_job(qmp, JOB)
    if job is None:
        raise DatapathFailed("the daemon knows nothing of the merge of the leaf")
    return job
