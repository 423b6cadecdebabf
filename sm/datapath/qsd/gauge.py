"""How full the volume of a leaf is that a daemon writes to, and holding users before it is full.

The daemon would tell a guest that there is no space, so its requests are held before that. It sends
an event when a write passes a mark; an event is a hint only, and what counts is the highest offset
that was written to the leaf's file. Both come over a socket of its own, because the other one is
for whoever changes the chain.

That users are held is asked of the daemon, and noted nowhere; in a pause the note says that they
were. The volume is known by its device, since in a snapshot its name becomes that of another.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sm.cowutil.raw import SECTOR
from sm.datapath.base import DatapathFailed, Gauge, JobState, Level, OutcomeUnknown
from sm.datapath.qsd import commit, freeze
from sm.datapath.qsd.graph import TOP
from sm.datapath.qsd.qmp import Qmp
from sm.datapath.qsd.record import COMMIT, END, LEAF, NODES, merge_of, nodes_of, with_nodes
from sm.datapath.state import Note

log = logging.getLogger(__name__)

EVENT = "BLOCK_WRITE_THRESHOLD"
SLICE_SECONDS = 0.2
"""How soon another leaf is noticed."""

HOLD_SECONDS = 10.0
"""For requests under way, and for a merge that is given up."""

POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Access:
    """What a gauge needs of the datapath: the note of its disk, and turns at it."""

    note: Callable[[], Note | None]
    """As noted, if its process lives."""
    write: Callable[[Note], Note]
    turn: Callable[[], AbstractContextManager[None]]
    show: Callable[[], None]
    """Let clients connect again."""
    hide: Callable[[], None]
    changed: Callable[[], int]
    """A number that is another one once the note was written."""


class QsdGauge(Gauge):
    """The line over `qmp`, a connection that is open, and closed in the end."""

    holds: ClassVar[bool] = True

    def __init__(self, qmp: Qmp, access: Access) -> None:
        self._qmp = qmp
        self._access = access
        self._armed: tuple[str, int] | None = None
        self._seen = 0
        self._prepared = 0
        qmp.listen(EVENT)
        self._prepare()

    @classmethod
    def open(cls, socket: Path, access: Access) -> Self:
        """Connect to the daemon at `socket`. Raises `OutcomeUnknown` where that cannot be."""
        with ExitStack() as stack:
            gauge = cls(stack.enter_context(Qmp(socket)), access)
            stack.pop_all()
        return gauge

    def level(self) -> Level | None:
        """Ask the daemon how far its leaf was written, and the kernel how long the volume is."""
        self._seen = self._access.changed()
        if self._prepared != self._seen:
            self._prepare()
        note = self._require()
        if note.paused:
            return None
        found = {
            each.get("node-name"): each
            for each in self._qmp.call("query-blockstats", {"query-nodes": True})
        }
        leaf = str(found[TOP]["parent"]["node-name"])
        if leaf != f"n{note.extra[NODES][0]}":
            return None  # the daemon has gone over to another, and the note is about to say so
        used = int(found[f"f{leaf[1:]}"]["stats"]["wr_highest_offset"])
        return Level(used, volume_size(note.extra[LEAF]), held=freeze.is_held(self._qmp))

    def wait(self, mark: int, seconds: float) -> None:
        """Wait for the daemon's event; one that was asked for just now may have come too late."""
        note = self._require()
        wanted = f"f{note.extra[NODES][0]}", max(1, mark)
        if self._armed != wanted and not note.paused:
            name, threshold = wanted
            arguments = {"node-name": name, "write-threshold": threshold}
            self._qmp.call("block-set-write-threshold", arguments)
            self._armed = wanted
            return
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._qmp.event_came(min(left, SLICE_SECONDS)):
                self._armed = None
                return
            if self._access.changed() != self._seen:
                return

    def hold(self) -> None:
        """Hold the requests inside the daemon; one that is shown as a file cannot be held."""
        with self._access.turn():
            note = self._require()
            if note.paused or note.path is not None:
                return
            prepared = self._prepared == self._access.changed()
            self._prepared = 0
            self._access.hide()
            try:
                self._give_up_commit(note)
                freeze.hold(self._qmp, HOLD_SECONDS, prepared=prepared)
            except OutcomeUnknown:
                raise
            except DatapathFailed:
                freeze.release(self._qmp, HOLD_SECONDS)
                self._access.show()
                raise

    def release(self) -> None:
        """Let the requests go on."""
        with self._access.turn():
            if self._require().paused:
                return
            freeze.release(self._qmp, HOLD_SECONDS)
            self._access.show()

    def close(self) -> None:
        """Disconnect."""
        self._qmp.__exit__(None, None, None)

    def _prepare(self) -> None:
        """Have all ready for a hold, where it is not one; undo one that was only begun."""
        with self._access.turn():
            changed = self._access.changed()
            note = self._access.note()
            if note is not None and not note.paused and not freeze.is_held(self._qmp):
                self._access.show()
                freeze.prepare(self._qmp)
                self._prepared = changed

    def _require(self) -> Note:
        note = self._access.note()
        if note is None:
            raise DatapathFailed("the process of the disk has ended")
        return note

    def _give_up_commit(self, note: Note) -> None:
        """End a commit, with which nothing can be held; how it ended is noted for its owner."""
        if COMMIT not in note.extra or END in note.extra[COMMIT]:
            return
        job = commit.find_job(self._qmp)
        if job is None:
            return
        if job["status"] != "concluded":
            log.info("the merge below %s is given up, as its volume is nearly full", note.disk.vdi)
            self._qmp.call("job-cancel", {"id": commit.JOB})
        deadline = time.monotonic() + HOLD_SECONDS
        while (found := commit.look(self._qmp, merge_of(note))).state is JobState.RUNNING:
            if time.monotonic() > deadline:
                raise DatapathFailed(f"the merge below {note.disk.vdi} does not end")
            time.sleep(POLL_SECONDS)
        ended = {**note.extra[COMMIT], END: found.state}
        self._access.write(with_nodes(note, nodes_of(note), ended))
        commit.dismiss(self._qmp, None)


def volume_size(identity: list[int] | None) -> int:
    """The bytes of a block device, as `record.identity` names it; a file has no end."""
    if identity is None or identity[0] != 0:
        return sys.maxsize
    device = identity[1]
    place = Path("/sys/dev/block", f"{os.major(device)}:{os.minor(device)}", "size")
    return int(place.read_text(encoding="ascii")) * SECTOR
