"""The datapath of qemu-storage-daemon."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sm import process
from sm.cowutil.base import ImageRef
from sm.cowutil.device import is_sealed
from sm.cowutil.registry import QEMU_DRIVERS, Formats
from sm.datapath.base import (
    DatapathFailed,
    Disk,
    Gauge,
    GrowingDatapath,
    Job,
    JobState,
    MirroringDatapath,
    OutcomeUnknown,
    Statistics,
)
from sm.datapath.qsd import commit, freeze, leaf_commit, nodes
from sm.datapath.qsd.commit import Merge
from sm.datapath.qsd.daemon import WATCHER, QsdProcess
from sm.datapath.qsd.record import (
    COMMIT,
    END,
    FROZEN,
    HELD,
    LEAF,
    MIRROR,
    OVER,
    going_over,
    identity,
    merge_of,
    mirroring,
    nodes_of,
    pausing,
    resumed,
    with_nodes,
    written_to,
)
from sm.datapath.state import Note
from sm.datapath.turns import in_turn
from sm.errors import Busy, Unimplemented, VdiMissing

if TYPE_CHECKING:
    from sm.datapath.qsd.qmp import Qmp


FREEZE_SECONDS = 20.0
"""For the requests under way to end."""


class QsdDatapath(QsdProcess, MirroringDatapath, GrowingDatapath):
    """One qemu-storage-daemon for each disk."""

    formats: ClassVar[frozenset[str]] = frozenset(QEMU_DRIVERS)
    commits_runs = True

    @in_turn
    def refresh(self, disk: Disk, chain: Sequence[ImageRef]) -> None:
        """A new leaf over the old one, or other parents below the same leaf, without a pause.

        The old leaf may have got another name, and the new one its old name: what counts is the
        file. For other parents, and the same ones anew, the daemon writes the name of the first
        into the leaf. Raises `Busy` for parents while there is a commit, and in a mirror.
        """
        note = self._require(disk)
        if note.paused and OVER in note.extra:
            self._reopen(note, chain)  # we ended in the middle of this
            return
        note = self._require_running(disk)
        _require_no_mirror(note)
        own, new = nodes_of(note), tuple(chain)
        with self._qmp(disk) as qmp:
            if not new or len(new) < min(2, len(own)):
                raise DatapathFailed(f"{disk.vdi}: the leaf would lose its parents")
            held = note.pace is not None and freeze.is_held(qmp)
            leaf = note.extra[LEAF]
            if nodes.under_top(qmp) != own[0].format or identity(new[0].path) != leaf:
                old_is_next = len(new) == len(own) + 1 and identity(new[1].path) == leaf
                if not old_is_next or new[2:] != note.chain[1:]:
                    raise DatapathFailed(f"{disk.vdi}: the new leaf is not over the old one")
                fresh = [] if held else nodes.add_leaf(qmp, own, new)
            elif COMMIT in note.extra:
                raise Busy(f"{disk.vdi} has a commit; finish it first")
            elif held:
                fresh = []
            else:
                fresh = nodes.relink(qmp, own[0], new, read_only=note.read_only)
        if held:
            # While it holds requests the daemon refuses both, but opens another chain.
            self._reopen(going_over(note), new)
        else:
            self._notes.write(with_nodes(note, fresh, note.extra.get(COMMIT)))

    @in_turn
    def pause(self, disk: Disk, seconds: float | None = None) -> None:
        """Hold the requests inside the daemon and close all images.

        A disk that is shown as a file cannot be paused.
        """
        note = self._require(disk)
        if note.extra.get(FROZEN):
            return
        if note.path is not None:
            raise DatapathFailed("qemu-storage-daemon cannot pause a disk that it shows as a file")
        if COMMIT in note.extra:
            raise Busy(f"{disk.vdi} has a commit; end it and finish it first")
        _require_no_mirror(note)
        self._freeze(note, FREEZE_SECONDS if seconds is None else seconds)

    def _freeze(self, note: Note, seconds: float) -> None:
        """Hold the requests, finish a mirror, and close all images; else go on as before."""
        self._flush(note)
        deadline = time.monotonic() + seconds
        disk, mirrored = note.disk, MIRROR in note.extra
        with self._qmp(disk) as qmp:
            held = HELD in note.extra or (note.pace is not None and freeze.is_held(qmp))
            if note.pace is not None:
                note = written_to(note, nodes.written(qmp))
            self._notes.write(pausing(note, complete=False, held=held))
            self._hide(disk)
            try:
                freeze.hold(qmp, seconds)
                if mirrored:
                    leaf_commit.finish(qmp, deadline)
            except OutcomeUnknown:
                raise
            except DatapathFailed:
                if mirrored:
                    _end_mirror(qmp, note)
                if not held:
                    freeze.release(qmp, FREEZE_SECONDS)
                    self._show(disk)
                self._notes.write(mirroring(note, None))
                raise
            freeze.take_away(qmp, read_only=note.read_only)
        self._notes.write(pausing(note, complete=True, held=held))

    @in_turn
    def resume(self, disk: Disk, chain: Sequence[ImageRef]) -> None:
        """Open the chain in the daemon, whatever state the pause or a resume was left in."""
        note = self._require(disk)
        if note.paused:
            self._reopen(note, chain)

    def _reopen(self, note: Note, chain: Sequence[ImageRef]) -> None:
        """End a pause; users who were held before it stay so."""
        disk = note.disk
        if not chain:
            raise DatapathFailed(f"{disk.vdi}: an empty chain")
        with self._qmp(disk) as qmp:
            if note.pace is not None:
                note = written_to(note, nodes.written(qmp))
            # From here on it is not known to be without open images.
            self._notes.write(pausing(note, complete=False))
            self._hide(disk)
            freeze.hold(qmp, FREEZE_SECONDS)
            if MIRROR in note.extra:
                leaf_commit.stop(qmp, FREEZE_SECONDS)
            freeze.take_away(qmp, read_only=note.read_only)
            if OVER in note.extra:
                _relink(chain)
            fresh = freeze.put_back(qmp, chain, read_only=note.read_only)
            if HELD not in note.extra:
                freeze.release(qmp, FREEZE_SECONDS)
        if HELD not in note.extra:
            self._show(disk)
        self._notes.write(resumed(note, fresh))

    @in_turn
    def close(self, disk: Disk) -> None:
        """End the daemon."""
        super().close(disk)

    def gauge(self, disk: Disk) -> Gauge:
        """Over a socket of its own, so that nobody has to wait for it, nor it for others."""
        from sm.datapath.qsd.gauge import Access, QsdGauge  # noqa: PLC0415 - few need it

        self._require(disk)
        access = Access(
            note=lambda: self._alive(disk),
            write=self._notes.write,
            turn=lambda: self._turn(disk),
            show=lambda: self._show(disk),
            hide=lambda: self._hide(disk),
            changed=lambda: self._notes.changed(disk),
        )
        return QsdGauge.open(self._socket(disk, WATCHER), access)

    def statistics(self, disk: Disk) -> Statistics:
        """What the kernel counts: the bytes of the images, those of merges and of tables too.

        The daemon counts nothing of what it exports (7.2). Its traffic with clients over a socket
        is not among what the kernel counts; with the file that shows a disk it is, so that for such
        a disk nothing is known.
        """
        note = self._require(disk)
        if note.path is not None:
            return Statistics()
        text = Path(f"/proc/{note.pid}/io").read_text(encoding="ascii")
        counts = dict(line.split(": ") for line in text.splitlines())
        return Statistics(int(counts["rchar"]), int(counts["wchar"]))

    # Commits

    @in_turn
    def start_commit(
        self, disk: Disk, top: ImageRef, base: ImageRef, bytes_per_second: int = 0
    ) -> None:
        """Begin a merge inside the daemon."""
        note = self._require_running(disk)
        _require_no_mirror(note)
        if top not in note.chain or base not in note.chain:
            raise DatapathFailed(f"{disk.vdi} does not have {top.path} and {base.path} open")
        if note.read_only:
            raise DatapathFailed(f"{disk.vdi} is open read-only")
        with self._qmp(disk) as qmp:
            _require_not_held(qmp, note)
            # A commit that was noted, and of which the daemon knows nothing, was never begun.
            if END in note.extra.get(COMMIT, {}) or commit.find_job(qmp) is not None:
                raise Busy(f"{disk.vdi} has a commit")
            # The daemon writes the name of the base into the image above.
            note = self._unsealed(qmp, note, base, note.chain[note.chain.index(top) - 1])
            own = nodes_of(note)
            top_node, base_node = (own[note.chain.index(image)].number for image in (top, base))
            merge = Merge.find(own, top_node, base_node)
            self._notes.write(with_nodes(note, own, {"top": top_node, "base": base_node}))
            try:
                commit.start(qmp, merge, bytes_per_second)
            except OutcomeUnknown:
                raise
            except DatapathFailed:
                self._notes.write(with_nodes(note, own))
                raise

    def limit_commit(self, disk: Disk, bytes_per_second: int) -> None:
        """Set the speed of the job, if it still runs."""
        with self._qmp(disk) as qmp:
            commit.limit(qmp, bytes_per_second)

    def job(self, disk: Disk) -> Job | None:
        """How far the merge is; each look takes it a step on where one is due."""
        note = self._alive(disk)
        if note is None or COMMIT not in note.extra:
            return None
        if END in note.extra[COMMIT]:
            return Job(JobState(note.extra[COMMIT][END]))
        try:
            with self._qmp(disk) as qmp:
                return commit.look(qmp, merge_of(note))
        except OutcomeUnknown as error:
            return Job(JobState.UNKNOWN, error=str(error))

    @in_turn
    def finish_commit(self, disk: Disk) -> None:
        """Dismiss the ended job; after a good one, the merged images are closed."""
        note = self._require(disk)
        merge, own = merge_of(note), nodes_of(note)
        job = self.job(disk)
        if job is None or job.state in (JobState.RUNNING, JobState.UNKNOWN):
            raise Busy(f"the commit of {disk.vdi} is {job.state if job else 'gone'}")
        # Before the job is dismissed: afterwards nobody could tell how it ended.
        self._notes.write(with_nodes(note, own, {**note.extra[COMMIT], END: job.state}))
        done = job.state is JobState.DONE
        left = [node for node in own if not done or node not in merge.merged]
        with self._qmp(disk) as qmp:
            commit.dismiss(qmp, left if done else None)
        self._notes.write(with_nodes(note, left))

    def cancel_commit(self, disk: Disk) -> None:
        """Ask the daemon to stop the job; `job` tells when it has."""
        merge_of(self._require(disk))
        with self._qmp(disk) as qmp:
            found = commit.find_job(qmp)
            if found is not None and found["status"] != "concluded":
                qmp.call("job-cancel", {"id": commit.JOB})

    def _unsealed(self, qmp: Qmp, note: Note, *images: ImageRef) -> Note:
        """See that images of the chain can be written to: some are open only to be read.

        A daemon that is told to finish a commit and cannot write to the image above crashes (7.2).
        """
        own = nodes_of(note)
        if not any(nodes.is_sealed(qmp, own[note.chain.index(image)]) for image in images):
            return note
        for image in images:
            if is_sealed(image.path):
                raise DatapathFailed(f"{image.path} may only be read")
        fresh = nodes.relink(qmp, own[0], note.chain, read_only=note.read_only)
        return self._notes.write(with_nodes(note, fresh))

    # Mirrors

    @in_turn
    def start_mirror(self, disk: Disk, base: ImageRef) -> None:
        """Begin an active commit inside the daemon."""
        note = self._require_running(disk)
        if note.path is not None:
            raise Unimplemented("a disk that is shown as a file cannot be paused")
        if note.read_only or base not in note.chain[1:]:
            raise DatapathFailed(f"{disk.vdi} is read-only, or {base.path} is not below its leaf")
        if COMMIT in note.extra:
            raise Busy(f"{disk.vdi} has a commit; finish it first")
        with self._qmp(disk) as qmp:
            _require_not_held(qmp, note)
            # One that was noted, and of which the daemon knows nothing, was never begun.
            if leaf_commit.look(qmp) is not None:
                raise Busy(f"{disk.vdi} has a mirror")
            note = self._unsealed(qmp, note, base)
            run = nodes_of(note)[: note.chain.index(base) + 1]
            self._notes.write(mirroring(note, run[-1].number))
            try:
                leaf_commit.start(qmp, run)
            except OutcomeUnknown:
                raise
            except DatapathFailed:
                self._notes.write(mirroring(note, None))
                raise

    def mirror(self, disk: Disk) -> Job | None:
        """How far the active commit is."""
        note = self._alive(disk)
        if note is None or MIRROR not in note.extra:
            return None
        try:
            with self._qmp(disk) as qmp:
                return leaf_commit.look(qmp) or Job(JobState.FAILED, error="it was not begun")
        except OutcomeUnknown as error:
            return Job(JobState.UNKNOWN, error=str(error))

    @in_turn
    def pause_mirrored(self, disk: Disk, seconds: float) -> None:
        """Hold the requests, let the active commit come to its end, and close all images."""
        note = self._require_running(disk)
        if MIRROR not in note.extra:
            raise VdiMissing(f"{disk.vdi} has no mirror")
        self._freeze(note, seconds)

    @in_turn
    def stop_mirror(self, disk: Disk) -> None:
        """Cancel the active commit."""
        note = self._alive(disk)
        if note is None or MIRROR not in note.extra:
            return
        if note.paused:
            raise DatapathFailed(f"{disk.vdi} is paused; resume it, which ends the mirror")
        with self._qmp(disk) as qmp:
            _end_mirror(qmp, note)
        self._notes.write(mirroring(note, None))

    # Notes

    def _require_running(self, disk: Disk) -> Note:
        note = self._require(disk)
        if note.paused:
            raise DatapathFailed(f"{disk.vdi} is paused; resume it first")
        return note


def _relink(chain: Sequence[ImageRef]) -> None:
    """Make a leaf that nobody has open name the next image as its parent, unless it does."""
    if len(chain) > 1:
        formats = Formats(process.run)
        link = formats.get(chain[0].format).info(chain[0].path).parent
        if link is None or (link.name, link.format) != (chain[1].path.name, chain[1].format):
            formats.cow(chain[0].format).set_parent(chain[0].path, chain[1])


def _end_mirror(qmp: Qmp, note: Note) -> None:
    """End the mirror of a disk whose chain stays."""
    leaf_commit.stop(qmp, FREEZE_SECONDS)
    leaf_commit.give_back(qmp, nodes_of(note), note.extra[MIRROR])


def _require_not_held(qmp: Qmp, note: Note) -> None:
    if note.pace is not None and freeze.is_held(qmp):
        raise Busy(f"the users of {note.disk.vdi} wait for room; see its sm-config")


def _require_no_mirror(note: Note) -> None:
    if MIRROR in note.extra:
        raise Busy(f"{note.disk.vdi} has a mirror; stop it first")
