"""The datapath of tapdisk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from sm import process
from sm.cowutil.base import CowUtil, ImageRef
from sm.cowutil.errors import ImageError
from sm.cowutil.qcow2.util import Qcow2Util
from sm.cowutil.raw import SECTOR, RawFormat
from sm.cowutil.registry import Formats
from sm.cowutil.vhd.util import VhdUtil
from sm.datapath.base import (
    CommittingDatapath,
    DatapathFailed,
    Disk,
    Endpoint,
    Job,
    JobState,
    OutcomeUnknown,
    Served,
    Statistics,
    TapdiskFailed,
)
from sm.datapath.state import Note
from sm.datapath.tapdisk.jobs import Jobs, require_commit
from sm.datapath.tapdisk.life import Life, Patience, Vbd, noted_commit
from sm.datapath.tapdisk.links import argument, check_chain, link_of, refusing
from sm.datapath.tapdisk.pausing import pause, resume
from sm.errors import Busy, SmError, Unimplemented, VdiInUse, VdiMissing


class TapdiskDatapath(CommittingDatapath):
    """One tapdisk for each disk, with its notes below `folder`.

    `control` is the control directory that `binary` has compiled in. A guest on Xen is connected to
    the VBD by its ring, which the toolstack does with the pid and minor; here the disk is reached
    over NBD, which every tapdisk serves, so nothing else is told at attach. Its NBD server takes
    requests of whole sectors, knows no flush (writes go to the image with O_DIRECT), and must not
    be asked for block status.

    `merges_into_parent`: this build is known to merge an image into its parent. Otherwise only
    merges into the base of a chain are begun, which mean the same to all.
    """

    name = "tapdisk"
    formats: ClassVar[frozenset[str]] = frozenset({VhdUtil.name, Qcow2Util.name, RawFormat.name})
    commits_runs = False

    def __init__(
        self,
        folder: Path,
        *,
        control: Path,
        binary: str,
        merges_into_parent: bool = False,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience = patience or Patience()
        self._images = Formats(process.run)
        self._life = Life(folder / self.name, control, binary, self._patience)
        self._jobs = Jobs(
            self._life, self._images, self._patience, clock, into_parent=merges_into_parent
        )

    @refusing()
    def open(
        self,
        disk: Disk,
        chain: Sequence[ImageRef],
        *,
        read_only: bool,
        path: Path | None = None,
        pace: int | None = None,
    ) -> Endpoint:
        """Start a tapdisk on a chain whose images name each other as given."""
        vbd = self._life.look(disk)
        if vbd is not None:
            if (vbd.note.chain, vbd.note.read_only, None) != (tuple(chain), read_only, path):
                raise VdiInUse(f"{disk.vdi} is served by process {vbd.note.pid} in another way")
            return self._endpoint(vbd.note)
        if path is not None:
            raise Unimplemented("tapdisk shows no disk as a file of this host")
        check_chain(self._images, chain)
        self._life.end(disk)
        return self._endpoint(self._life.start(disk, chain, read_only=read_only))

    def close(self, disk: Disk) -> None:
        """Close, detach, and wait for the end of the process. A running commit is ended by it.

        Clients should have left: tapdisk does not wait for their requests. Raises `DatapathFailed`
        when it does not answer and was killed; also then, nothing is served any more.
        """
        self._life.end(disk)

    def find(self, disk: Disk) -> Served | None:
        """The tapdisk of a disk; `OutcomeUnknown` where it lives and does not answer."""
        vbd = self._life.look(disk)
        return None if vbd is None else self._served(vbd.note, paused=vbd.paused)

    def served(self) -> list[Served]:
        """All disks; one whose tapdisk does not answer too, for it has its images open."""
        found = []
        for note in self._life.notes():
            try:
                vbd = self._life.vbd(note)
            except OutcomeUnknown:
                found.append(self._served(note, paused=False))
            else:
                if vbd is not None:
                    found.append(self._served(vbd.note, paused=vbd.paused))
        return found

    def half_started(self) -> list[Disk]:
        """The disks whose tapdisk has not opened its leaf, as far as is noted and seen."""
        return self._life.half_started()

    def settle(self, disk: Disk) -> None:
        """Take down what was started for a disk, and did not come to open its leaf."""
        self._life.settle(disk)

    @refusing()
    def refresh(self, disk: Disk, chain: Sequence[ImageRef]) -> None:
        """Pause, make the leaf name the next image, resume on the new leaf.

        What can be seen before is refused before. If the new chain cannot be opened, the leaf gets
        its old parent back and the old chain is opened; if not that either, the disk is paused, and
        `resume` or this may be called again. `Busy` while it has a commit.

        A VHD's headers must not be changed by others while it is the leaf: on closing, tapdisk
        writes both footers from memory, with the size, id and hidden mark of when it opened it.
        Pause, change, and resume for that. The parent's name is written here while it is closed.
        """
        vbd = self._require(disk)
        if vbd.note.paused and not vbd.running:
            raise TapdiskFailed(f"{disk.vdi} is paused; resume it first")
        self._refuse_during_commit(vbd)
        new = tuple(chain)
        check_chain(self._images, new, first=1)
        self._check_size(vbd, new[0])
        pause(vbd, self._patience.pause)
        old_parent: ImageRef | None = None
        try:
            old_parent = self._relink(vbd.note, new)
            self._resume(vbd, new)
        except OutcomeUnknown:
            raise
        except (SmError, ImageError, OSError) as error:
            self._go_back(vbd, new[0], old_parent, error)
            raise

    def pause(self, disk: Disk, seconds: float | None = None) -> None:
        """Pause, watched until it is done.

        Raises `OutcomeUnknown` when the requests under way do not end in time: the users are frozen
        then, and it cannot be withdrawn; it may yet become paused by itself.
        """
        vbd = self._require(disk)
        if not vbd.paused:
            self._refuse_during_commit(vbd)
        note = self._life.save(vbd.note, commit=vbd.commit, paused=True)
        try:
            pause(vbd, self._patience.pause if seconds is None else seconds)
        except OutcomeUnknown:
            raise
        except DatapathFailed:
            self._life.save(note, commit=vbd.commit, paused=False)
            raise

    @refusing()
    def resume(self, disk: Disk, chain: Sequence[ImageRef]) -> None:
        """Resume on a chain whose images name each other as given."""
        vbd = self._require(disk)
        if vbd.pausing:
            raise Busy(f"{disk.vdi} is not paused yet: requests are under way")
        if vbd.paused:
            self._resume(vbd, tuple(chain))
        elif vbd.note.paused:  # a resume of ours ended before it was noted
            self._life.save(vbd.note, commit=vbd.commit, paused=False)

    def statistics(self, disk: Disk) -> Statistics:
        """Bytes as tapdisk counts them; it counts no requests and no clients."""
        vbd = self._require(disk)
        counted = vbd.control.statistics(vbd.minor).get("secs")
        match counted:
            case [int(read), int(written)]:
                return Statistics(bytes_read=read * SECTOR, bytes_written=written * SECTOR)
        raise TapdiskFailed(f"tapdisk's statistics have {counted!r:.100} for sectors")

    @refusing()
    def start_commit(
        self, disk: Disk, top: ImageRef, base: ImageRef, bytes_per_second: int = 0
    ) -> None:
        """Begin to merge `top` into `base`, its parent, in a chain of QCOW2.

        `Unimplemented` for a run of images, and for a base that has a parent itself, unless this
        tapdisk is known to merge into the parent.

        An image that got its parent by an earlier commit is opened anew before: qemu calls it by
        another name from then on (seen on 7.2), and a name that is not in its chain kills the
        second generation of tapdisk.
        """
        vbd = self._require(disk)
        if top in vbd.relinked and vbd.commit is None and vbd.running:
            self.refresh(disk, vbd.note.chain)
            vbd = self._require(disk)
        self._jobs.start(vbd, top, base)
        if bytes_per_second:
            self.limit_commit(disk, bytes_per_second)

    def job(self, disk: Disk) -> Job | None:
        """How the commit stands; tapdisk is asked seldom, whatever the pace of the calls.

        Its word for an end is not enough: what the image above names on disk decides. If tapdisk
        dies, this is None, and the disk's word alone is no proof: the base may lack what was not
        flushed. Whoever merged then gives the image above its old parent and merges again.
        """
        note = self._life.note(disk)
        noted = None if note is None else noted_commit(note)
        if note is None or noted is None:
            return None
        if not self._jobs.is_due(noted):
            return noted.job
        try:
            vbd = self._life.vbd(note)
        except OutcomeUnknown as error:
            return Job(JobState.UNKNOWN, noted.done, noted.total, error.detail)
        return None if vbd is None else self._jobs.look(vbd, noted)

    def finish_commit(self, disk: Disk) -> None:
        """Take note of the end that `job` told."""
        vbd = self._require(disk)
        self._jobs.finish(vbd, require_commit(vbd))

    def cancel_commit(self, disk: Disk) -> None:
        """Ask tapdisk to stop the commit; `job` tells when it has. `Busy` when it is too late."""
        vbd = self._require(disk)
        self._jobs.cancel(vbd, require_commit(vbd))

    # Going over to another chain

    def _resume(self, vbd: Vbd, chain: tuple[ImageRef, ...]) -> None:
        """Noted first: as long as the disk is paused, the note does not say what is open."""
        check_chain(self._images, chain)
        note = self._life.save(vbd.note, chain=chain, commit=vbd.commit, relinked=())
        try:
            resume(vbd, argument(chain[0]), self._patience.resume)
        except OutcomeUnknown:
            raise
        except DatapathFailed:
            self._life.save(note, chain=vbd.note.chain, commit=vbd.commit)
            raise
        if note.paused:
            self._life.save(note, commit=vbd.commit, paused=False)

    def _relink(self, note: Note, chain: Sequence[ImageRef]) -> ImageRef | None:
        """Make the leaf name the next image, if it may be written; the parent it had before."""
        link = link_of(self._images, chain[0])
        if note.read_only or link is None or len(chain) == 1:
            return None
        if (link.name, link.format) == (chain[1].path.name, chain[1].format):
            return None
        self._cow(chain[0]).set_parent(chain[0].path, chain[1])
        return ImageRef(chain[0].path.with_name(link.name), link.format or chain[1].format)

    def _go_back(
        self, vbd: Vbd, leaf: ImageRef, old_parent: ImageRef | None, failure: Exception
    ) -> None:
        try:
            if old_parent is not None:
                self._cow(leaf).set_parent(leaf.path, old_parent)
            self._resume(vbd, vbd.note.chain)
        except (SmError, ImageError, OSError) as error:
            raise TapdiskFailed(
                f"{vbd.note.disk.vdi} stays paused: {failure}; and the old chain: {error}"
            ) from failure

    def _cow(self, image: ImageRef) -> CowUtil:
        return self._images.cow(image.format)

    def _check_size(self, vbd: Vbd, leaf: ImageRef) -> None:
        size = self._images.get(leaf.format).info(leaf.path).virtual_size
        served = vbd.control.disk_info(vbd.minor).size
        if size // SECTOR * SECTOR != served:
            raise TapdiskFailed(
                f"{leaf.path} has {size} bytes, the disk {served}: it must be closed and opened"
            )

    def _refuse_during_commit(self, vbd: Vbd) -> None:
        if vbd.commit is not None and not vbd.commit.ended:
            raise Busy(
                f"{vbd.note.disk.vdi} has a commit, which a pause would end: wait, or cancel it"
            )

    # What is served

    def _require(self, disk: Disk) -> Vbd:
        vbd = self._life.look(disk)
        if vbd is None:
            raise VdiMissing(f"no process serves {disk.vdi}")
        return vbd

    def _endpoint(self, note: Note) -> Endpoint:
        socket = self._life.nbd_socket(note)
        uri = f"nbd+unix:///{note.disk.vdi}?socket={quote(str(socket))}"
        return Endpoint(uri, socket, None, note.pid)

    def _served(self, note: Note, *, paused: bool) -> Served:
        return Served(
            note.disk,
            self.name,
            self._endpoint(note),
            note.chain,
            note.read_only,
            paused,
        )
