"""The datapath of qemu-storage-daemon."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from sm import process
from sm.cowutil.base import ImageRef
from sm.cowutil.registry import QEMU_DRIVERS
from sm.datapath.base import (
    CommittingDatapath,
    DatapathFailed,
    Disk,
    Endpoint,
    Job,
    JobState,
    OutcomeUnknown,
    Served,
)
from sm.datapath.qsd import commit
from sm.datapath.qsd.commit import Merge, remove
from sm.datapath.qsd.graph import (
    EXPORT,
    TOP,
    Node,
    command_line,
    file_options,
    format_options,
    number,
)
from sm.datapath.sockets import socket_folder
from sm.datapath.state import Note, Notes
from sm.errors import Busy, VdiInUse, VdiMissing
from sm.owner import start_time

if TYPE_CHECKING:
    from sm.datapath.qsd.qmp import Qmp

START_SECONDS = 30.0
STOP_SECONDS = 20.0


class QsdDatapath(CommittingDatapath):
    """One qemu-storage-daemon for each disk, with its notes and sockets below `folder`."""

    name = "qsd"
    formats: ClassVar[frozenset[str]] = frozenset(QEMU_DRIVERS)

    def __init__(self, folder: Path) -> None:
        self._folder = folder / self.name
        self._notes = Notes(self._folder)

    def open(self, disk: Disk, chain: Sequence[ImageRef], *, read_only: bool) -> Endpoint:
        """Start a daemon; it has opened everything when this returns."""
        note = self._alive(disk)
        if note is not None:
            if note.chain != tuple(chain) or note.read_only != read_only:
                raise VdiInUse(f"{disk.vdi} is served by process {note.pid} in another way")
            return self._endpoint(disk, note.pid)
        self._clear(disk)
        nodes = number(chain, 0)
        numbers = [node.number for node in nodes]
        self._notes.write(disk, chain, read_only=read_only, extra={"nodes": numbers})
        argv = command_line(
            nodes,
            read_only=read_only,
            monitor=self._socket(disk, "qmp"),
            nbd=self._socket(disk, "nbd"),
            pid_file=self._pid_file(disk),
        )
        try:
            process.run(argv, timeout=START_SECONDS, limited=False)
        except BaseException:
            self._clear(disk)
            raise
        return self._endpoint(disk, self._adopt(disk).pid)

    def close(self, disk: Disk) -> None:
        """Ask the daemon to end, which flushes; make it end if it does not."""
        note = self._alive(disk)
        if note is not None:
            self._end(disk, note)
        self._clear(disk)

    def find(self, disk: Disk) -> Served | None:
        """The daemon of a disk."""
        note = self._alive(disk)
        return None if note is None else self._served(note)

    def served(self) -> list[Served]:
        """All living daemons that have a note."""
        found = [self._alive(note.disk) for note in self._notes]
        return [self._served(note) for note in found if note is not None]

    def refresh(self, disk: Disk, chain: Sequence[ImageRef]) -> None:
        """A new leaf over the old one, or other parents below the same leaf, without a pause.

        For other parents, the daemon writes their name into the leaf that it has open.
        """
        note = self._require(disk)
        old, new = note.chain, tuple(chain)
        if new == old:
            return
        nodes = _nodes(note)
        with self._qmp(disk) as qmp:
            if len(new) == len(old) + 1 and new[0] == old[0] and new[2:] == old[1:]:
                numbers = self._add_leaf(qmp, nodes, new)
            elif new[0] == old[0] and len(new) > 1:
                numbers = self._relink(qmp, nodes, new, read_only=note.read_only)
            else:
                raise DatapathFailed(f"{disk.vdi}: the new chain has another leaf")
        self._save(note, new, numbers)

    def start_commit(self, disk: Disk, top: ImageRef, base: ImageRef) -> None:
        """Begin a merge inside the daemon."""
        note = self._require(disk)
        if top not in note.chain or base not in note.chain:
            raise DatapathFailed(f"{disk.vdi} does not have {top.path} and {base.path} open")
        if note.read_only:
            raise DatapathFailed(f"{disk.vdi} is open read-only")
        places = [note.chain.index(top), note.chain.index(base)]
        merge = commit.Merge.find(_nodes(note), *places)
        with self._qmp(disk) as qmp:
            commit.start(qmp, merge)
        numbers = note.extra["nodes"]
        self._save(note, note.chain, numbers, places=places)

    def job(self, disk: Disk) -> Job | None:
        """How far the merge is; each look takes it a step on where one is due."""
        note = self._alive(disk)
        if note is None or "commit" not in note.extra:
            return None
        try:
            with self._qmp(disk) as qmp:
                return commit.look(qmp, self._merge(note))
        except OutcomeUnknown as error:
            return Job(JobState.UNKNOWN, error=str(error))

    def finish_commit(self, disk: Disk) -> None:
        """Dismiss the ended job; after a good one, the merged images are closed."""
        note = self._require(disk)
        merge = self._merge(note)
        with self._qmp(disk) as qmp:
            job = commit.look(qmp, merge)
            if job.state in (JobState.RUNNING, JobState.UNKNOWN):
                raise Busy(f"the commit of {disk.vdi} is {job.state}")
            done = job.state is JobState.DONE
            commit.dismiss(qmp, merge, done=done)
        gone = set(merge.merged) if done else set()
        left = [node for node in _nodes(note) if node not in gone]
        self._save(note, tuple(node.image for node in left), [node.number for node in left])

    def cancel_commit(self, disk: Disk) -> None:
        """Ask the daemon to stop the job; `job` tells when it has."""
        self._merge(self._require(disk))
        with self._qmp(disk) as qmp:
            found = commit.find_job(qmp)
            if found is not None and found["status"] != "concluded":
                qmp.call("job-cancel", {"id": commit.JOB})

    # The graph

    @staticmethod
    def _add_leaf(qmp: Qmp, nodes: tuple[Node, ...], new: tuple[ImageRef, ...]) -> list[int]:
        """Put a new empty image on top; from then on it takes all writes."""
        fresh = Node(max(node.number for node in nodes) + 1, new[0])
        device = fresh.image.path.is_block_device()
        qmp.call("blockdev-add", file_options(fresh, read_only=False, device=device))
        qmp.call("blockdev-add", format_options(fresh, None, read_only=False))
        qmp.call("blockdev-snapshot", {"node": nodes[0].format, "overlay": fresh.format})
        return [fresh.number, *(node.number for node in nodes)]

    @staticmethod
    def _relink(
        qmp: Qmp, nodes: tuple[Node, ...], new: tuple[ImageRef, ...], *, read_only: bool
    ) -> list[int]:
        """Open the new parents afresh: an open node of a changed image has stale tables."""
        fresh = number(new[1:], max(node.number for node in nodes) + 1)
        for index in reversed(range(len(fresh))):
            node = fresh[index]
            below = fresh[index + 1] if index + 1 < len(fresh) else None
            device = node.image.path.is_block_device()
            qmp.call("blockdev-add", file_options(node, read_only=False, device=device))
            qmp.call("blockdev-add", format_options(node, below, read_only=True))
        leaf = format_options(nodes[0], fresh[0], read_only=read_only)
        qmp.call("blockdev-reopen", {"options": [leaf]})
        if not read_only:
            qmp.call(
                "change-backing-file",
                {
                    "device": TOP,
                    "image-node-name": nodes[0].format,
                    "backing-file": fresh[0].image.path.name,
                },
            )
        remove(qmp, nodes[1:])
        return [nodes[0].number, *(node.number for node in fresh)]

    # Notes and processes

    def _save(
        self,
        note: Note,
        chain: Sequence[ImageRef],
        numbers: list[int],
        *,
        places: list[int] | None = None,
    ) -> None:
        """Note a changed chain; `places` are those of the images that a commit is about."""
        extra = {"nodes": numbers} | ({"commit": places} if places else {})
        self._notes.write(note.disk, chain, read_only=note.read_only, pid=note.pid, extra=extra)

    @staticmethod
    def _merge(note: Note) -> Merge:
        if "commit" not in note.extra:
            raise VdiMissing(f"{note.disk.vdi} has no commit")
        return Merge.find(_nodes(note), *note.extra["commit"])

    def _qmp(self, disk: Disk) -> Qmp:
        from sm.datapath.qsd.qmp import Qmp  # noqa: PLC0415 - asyncio is slow to import

        return Qmp(self._socket(disk, "qmp"))

    def _alive(self, disk: Disk) -> Note | None:
        """The note of a disk whose daemon lives; one that was starting when we ended is adopted."""
        note = self._notes.read(disk)
        if note is not None and note.pid == 0 and self._running_pid(disk):
            note = self._adopt(disk)
        return note if note is not None and note.alive else None

    def _require(self, disk: Disk) -> Note:
        note = self._alive(disk)
        if note is None:
            raise VdiMissing(f"no process serves {disk.vdi}")
        return note

    def _adopt(self, disk: Disk) -> Note:
        """Complete a note with the process that was started for it."""
        note, pid = self._notes.read(disk), self._running_pid(disk)
        if note is None or pid is None:
            raise DatapathFailed(f"the process of {disk.vdi} ended at once")
        return self._notes.write(
            disk, note.chain, read_only=note.read_only, pid=pid, extra=note.extra
        )

    def _running_pid(self, disk: Disk) -> int | None:
        """The daemon that names our file for its number on its command line."""
        path = self._pid_file(disk)
        try:
            pid = int(path.read_text(encoding="ascii"))
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if os.fsencode(path) in arguments and start_time(pid) is not None else None

    def _end(self, disk: Disk, note: Note) -> None:
        try:
            with self._qmp(disk) as qmp:
                qmp.call("quit")
        except OutcomeUnknown:
            os.kill(note.pid, signal.SIGTERM)
        for number_, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            if _ended(note, seconds):
                return
            os.kill(note.pid, number_)
        if not _ended(note, STOP_SECONDS):
            raise OutcomeUnknown(f"process {note.pid} of {disk.vdi} does not end")

    def _clear(self, disk: Disk) -> None:
        for suffix in ("qmp", "nbd"):
            self._socket(disk, suffix).unlink(missing_ok=True)
        self._pid_file(disk).unlink(missing_ok=True)
        self._notes.forget(disk)

    def _socket(self, disk: Disk, suffix: str) -> Path:
        return socket_folder(self._folder) / f"{disk.vdi}.{suffix}"

    def _pid_file(self, disk: Disk) -> Path:
        return self._folder / f"{disk.vdi}.pid"

    def _endpoint(self, disk: Disk, pid: int) -> Endpoint:
        socket = quote(str(self._socket(disk, "nbd")))
        return Endpoint(f"nbd+unix:///{EXPORT}?socket={socket}", None, pid)

    def _served(self, note: Note) -> Served:
        endpoint = self._endpoint(note.disk, note.pid)
        return Served(note.disk, self.name, endpoint, note.chain, note.read_only)


def _nodes(note: Note) -> tuple[Node, ...]:
    numbers = note.extra["nodes"]
    return tuple(Node(n, image) for n, image in zip(numbers, note.chain, strict=True))


def _ended(note: Note, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while start_time(note.pid) == note.started:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
