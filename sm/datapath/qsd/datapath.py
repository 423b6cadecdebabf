"""The datapath of qemu-storage-daemon."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sm.cowutil.base import ImageRef
from sm.cowutil.registry import QEMU_DRIVERS
from sm.datapath.base import (
    CommittingDatapath,
    DatapathFailed,
    Disk,
    Job,
    JobState,
    OutcomeUnknown,
)
from sm.datapath.own_process import NBD, OwnProcessDatapath
from sm.datapath.qsd import commit
from sm.datapath.qsd.commit import Merge, remove
from sm.datapath.qsd.graph import (
    TOP,
    Node,
    command_line,
    file_options,
    format_options,
    number,
)
from sm.datapath.state import Note
from sm.errors import Busy, Unimplemented, VdiMissing
from sm.owner import start_time

if TYPE_CHECKING:
    from sm.datapath.qsd.qmp import Qmp


class QsdDatapath(OwnProcessDatapath, CommittingDatapath):
    """One qemu-storage-daemon for each disk."""

    name = "qsd"
    control = "qmp"
    formats: ClassVar[frozenset[str]] = frozenset(QEMU_DRIVERS)

    def _first_extra(self, chain: Sequence[ImageRef]) -> dict[str, Any]:
        return {"nodes": [node.number for node in number(chain, 0)]}

    def _prepare(self, note: Note) -> None:
        if note.path is not None:
            raise Unimplemented("not yet as a file")

    def _command(self, note: Note) -> list[str]:
        return command_line(
            _nodes(note),
            read_only=note.read_only,
            monitor=self._socket(note.disk, self.control),
            nbd=self._socket(note.disk, NBD),
            export=note.disk.vdi,
            pid_file=self._pid_file(note.disk),
        )

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
        self._notes.write(replace(note, chain=tuple(chain), extra=extra))

    @staticmethod
    def _merge(note: Note) -> Merge:
        if "commit" not in note.extra:
            raise VdiMissing(f"{note.disk.vdi} has no commit")
        return Merge.find(_nodes(note), *note.extra["commit"])

    def _qmp(self, disk: Disk) -> Qmp:
        from sm.datapath.qsd.qmp import Qmp  # noqa: PLC0415 - asyncio is slow to import

        return Qmp(self._socket(disk, self.control))

    def _adopt(self, note: Note) -> Note | None:
        """Complete a note with the daemon that names our file for its number when it is started."""
        if note.pid:
            return note
        path = self._pid_file(note.disk)
        try:
            pid = int(path.read_text(encoding="ascii"))
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        if os.fsencode(path) not in arguments or start_time(pid) is None:
            return None
        return self._notes.write(note.of_process(pid))

    def _ask_to_end(self, note: Note) -> None:
        with self._qmp(note.disk) as qmp:
            qmp.call("quit")

    def _remove_traces(self, note: Note) -> None:
        self._pid_file(note.disk).unlink(missing_ok=True)

    def _pid_file(self, disk: Disk) -> Path:
        return self._folder / f"{disk.vdi}.pid"


def _nodes(note: Note) -> tuple[Node, ...]:
    numbers = note.extra["nodes"]
    return tuple(Node(n, image) for n, image in zip(numbers, note.chain, strict=True))
