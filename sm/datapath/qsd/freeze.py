"""Holding a disk's requests inside the daemon, with no image open; its clients stay connected.

The daemon has no such command (7.2). But a mirror job that is told to complete, and is not yet
finalised, holds all requests; while it does, what is below `TOP` may be taken away and replaced.
The job copies nothing and its target keeps nothing.

A client that connects meanwhile is not held, and the job then does not end before that client
leaves. So the socket is out of reach for that time, which is the caller's to see to; and whoever
was in the middle of connecting gets an error for each request, never a write that goes nowhere.

Each function may be repeated from its beginning after a crash of ours anywhere in it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sm.cowutil.base import ImageRef
from sm.datapath.base import DatapathFailed, NotInTime, OutcomeUnknown
from sm.datapath.qsd import nodes
from sm.datapath.qsd.commit import find_job
from sm.datapath.qsd.graph import NOTHING, NULL, REFUSE, TOP, Node, blockers

if TYPE_CHECKING:  # asyncio is slow to import, and opening a disk needs none of it
    from sm.datapath.qsd.qmp import Qmp

JOB = "freeze"
POLL_SECONDS = 0.002


def prepare(qmp: Qmp) -> None:
    """Make beforehand what a hold needs, so that it takes less time; it is in nobody's way."""
    present = nodes.files(qmp)
    for options in blockers(nodes.sizes(qmp)[TOP]):
        if options["node-name"] not in present:
            qmp.call("blockdev-add", options)


def hold(qmp: Qmp, seconds: float, *, prepared: bool = False) -> None:
    """Let the requests under way end, and hold all others; images stay open.

    `prepared`: by `prepare`, and no job of this kind is there. `NotInTime` when that takes longer
    than `seconds`; then `release`.
    """
    deadline = time.monotonic() + seconds
    job = None if prepared else find_job(qmp, JOB)
    if job is not None and job["status"] == "concluded":
        qmp.call("job-dismiss", {"id": JOB})
        job = None
    if job is None:
        if not prepared:
            prepare(qmp)
        _begin(qmp)
    told = False
    while (status := _status(qmp)) != "pending":
        if status == "concluded":
            raise DatapathFailed("the job that was to hold the disk's requests ended")
        if status == "ready" and not told:
            qmp.call("job-complete", {"id": JOB})
            told = True
        if time.monotonic() > deadline:
            raise NotInTime(f"the requests under way did not end within {seconds:g} s")
        time.sleep(POLL_SECONDS)


def is_held(qmp: Qmp) -> bool:
    """Whether the disk's requests are held, or are about to be."""
    return _status(qmp) not in (None, "concluded")


def take_away(qmp: Qmp, *, read_only: bool) -> None:
    """Close all images of a disk whose requests are held."""
    if nodes.under_top(qmp) != REFUSE:
        nodes.put_under_top(qmp, REFUSE, read_only=read_only)
    nodes.sweep(qmp, [])


def put_back(qmp: Qmp, chain: Sequence[ImageRef], *, read_only: bool) -> list[Node]:
    """Open a chain for a disk whose images were taken away.

    `DatapathFailed`, with none open, for a chain of another size, or that cannot be opened.
    """
    fresh = nodes.add(qmp, chain, read_only=read_only)
    sizes = nodes.sizes(qmp)
    if sizes[fresh[0].format] != sizes[TOP]:
        nodes.sweep(qmp, [])
        raise DatapathFailed(
            f"the chain has {sizes[fresh[0].format]} bytes instead of {sizes[TOP]}"
        )
    nodes.put_under_top(qmp, fresh[0].format, read_only=read_only)
    return fresh


def release(qmp: Qmp, seconds: float) -> None:
    """Let the held requests go on.

    `OutcomeUnknown` when the job does not end within `seconds`, as while a client is there that
    connected meanwhile.
    """
    deadline = time.monotonic() + seconds
    if _status(qmp) not in (None, "concluded"):
        qmp.call("job-cancel", {"id": JOB})
    while (status := _status(qmp)) is not None:
        if status == "concluded":
            qmp.call("job-dismiss", {"id": JOB})
            break
        if time.monotonic() > deadline:
            raise OutcomeUnknown(f"the requests are still held after {seconds:g} s")
        time.sleep(POLL_SECONDS)
    nodes.delete(qmp, [REFUSE, NOTHING, NULL])


def _begin(qmp: Qmp) -> None:
    qmp.call(
        "blockdev-mirror",
        {
            "job-id": JOB,
            "device": TOP,
            "target": NULL,
            "sync": "none",
            "auto-finalize": False,
            "auto-dismiss": False,
        },
    )


def _status(qmp: Qmp) -> str | None:
    job = find_job(qmp, JOB)
    return None if job is None else str(job["status"])
