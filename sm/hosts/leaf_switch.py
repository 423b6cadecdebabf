"""The last step of merging the leaf of a disk in use: users held, rest copied, name switched.

All of it on the host that serves the disk, under the locks of the disk and of this host's SR; while
the users are held nobody else is asked anything. They are held for at most as long as the caller
says, and when that is not enough, they go on with the leaf as before.

What a crash leaves, for `settle`, told from the storage alone:

- the name of the base is there: the switch did not take place. The leaf has everything, the base
  part of it, and it may have lost its hidden mark, which it gets again;
- that name is gone: it is the leaf now, visible, and has everything.

In both the leaf's name leads to what the disk must read as. Whoever gets the lock of a disk and
finds it paused in the middle of a merge knows that the one who paused it has ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sm import coverage
from sm.cowutil.base import CowUtil, ImageRef, Progress
from sm.cowutil.errors import ImageError
from sm.cowutil.registry import Formats
from sm.datapath.base import Datapath, Disk, MirroringDatapath, NotInTime, Served
from sm.datapath.choose import Datapaths
from sm.errors import Busy, SmError
from sm.hosts import naming
from sm.hosts.arguments import locked
from sm.repository import Repository

log = logging.getLogger(__name__)

WORK_SHARE = 0.75
"""Of the time for which users may be held; the rest is for the switch, and to open the chain."""


READ_SHARE = 0.2
"""Of that time, what the tables of the image below may take to be read."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a switch ended. `pause_seconds`: for how long users were held, at most.

    `copied`: guest bytes in the pause; `freed`: what the leaf's old image took on the storage.
    When not `switched`, `reason` says why, and `left` how many guest bytes there were to copy.
    """

    switched: bool
    pause_seconds: float
    copied: int = 0
    freed: int = 0
    left: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Merge:
    """What is switched: the leaf `chain[0]` and all above `chain[into]` give way to that."""

    repository: Repository
    disk: Disk
    chain: tuple[ImageRef, ...]
    into: int

    @property
    def base(self) -> ImageRef:
        return self.chain[self.into]

    @property
    def left(self) -> tuple[ImageRef, ...]:
        """The chain that is served after the switch: the base has the leaf's name."""
        return (self.chain[0], *self.chain[self.into + 1 :])

    @property
    def cow(self) -> CowUtil:
        return self.repository.formats.cow(self.base.format)

    @property
    def switched(self) -> bool:
        """Whether the switch took place; if not, it does not any more."""
        return naming.superseded(self.repository, self.disk.vdi)

    def prepare(self, chain: Sequence[ImageRef]) -> None:
        """See that the paths of a chain mean its images, on this host."""
        found = [self.repository.store.parent_uuid(image.path.name) for image in chain]
        self.repository.store.prepare([each for each in found if each is not None])


def switch(
    repository: Repository, disk: Disk, into: ImageRef, *, seconds: float, budget: int
) -> Outcome:
    """Bring the rest of a leaf into `into`, which takes its name; for a mirror or without one.

    `seconds`: how long users may be held. `budget`: guest bytes that may be copied meanwhile where
    there is no mirror. The locks of the disk and of the SR are held. Raises what the datapath and
    the format raise, with the users going on.
    """
    datapath, served = _running(repository, disk)
    if into not in served.chain[1:]:
        raise SmError(f"{disk.vdi} has no {into.path.name} below its leaf")
    work = _Merge(repository, disk, served.chain, served.chain.index(into))
    # The base is written to here: it may have become writable, and longer, since it was opened.
    work.prepare(work.chain)
    freed = repository.store.volume(disk.vdi, into.format).used
    mirror = datapath if isinstance(datapath, MirroringDatapath) else None
    if mirror is not None and mirror.mirror(disk) is None:
        mirror = None
    if mirror is None and not _is_read_quickly(repository.formats, into, seconds):
        return Outcome(False, 0.0, reason=f"the tables of {into.path.name} are not read in time")
    began = time.monotonic()
    deadline = began + seconds * WORK_SHARE
    repository.journal.observe("leaf-switch: pause")
    copied = 0
    try:
        try:
            if mirror is not None:
                mirror.pause_mirrored(disk, seconds * WORK_SHARE)
            else:
                datapath.pause(disk, seconds * WORK_SHARE)
                copied = _copy_rest(work, deadline, budget)
            repository.journal.observe("leaf-switch: unhide")
            work.prepare(work.chain)
            work.cow.set_hidden(into.path, False)
            _require_time(deadline)
            repository.journal.observe("leaf-switch: supersede")
            naming.supersede(repository, disk.vdi)
            repository.journal.observe("leaf-switch: resume")
            work.prepare(work.left)
            datapath.resume(disk, work.left)
        except BaseException:
            _go_on(work, datapath)
            raise
    except (NotInTime, _TooMuch) as error:
        if not work.switched:
            left = error.left if isinstance(error, _TooMuch) else 0
            held = time.monotonic() - began
            return Outcome(False, held, left=left, reason=error.detail)
    return Outcome(True, time.monotonic() - began, copied, freed)


def settle(repository: Repository, disk: Disk) -> bool:
    """Let users of a disk go on whose merge was left in the middle; whether any are served.

    The lock of the disk is held, and the SR's.
    """
    found = Datapaths(repository.settings).settle(disk)
    entry = naming.entry_of(repository, disk.vdi)
    if entry is None or found is None:
        return found is not None
    datapath, served = found
    into = repository.store.path(entry.data["into"], entry.data["format"])
    places = [place for place, image in enumerate(served.chain) if image.path == into]
    repository.journal.observe("leaf-switch: settle")
    if places:
        _go_on(_Merge(repository, disk, served.chain, places[0]), datapath)
    elif served.paused:
        # Some note the new chain before they open it.
        _Merge(repository, disk, served.chain, 0).prepare(served.chain)
        datapath.resume(disk, served.chain)
    return True


class _TooMuch(SmError):
    """There is more to copy than may be while users are held."""

    def __init__(self, left: int, budget: int) -> None:
        super().__init__(f"there were {left} bytes left to copy, and time for {budget}")
        self.left = left


def _running(repository: Repository, disk: Disk) -> tuple[Datapath, Served]:
    found = Datapaths(repository.settings).settle(disk)
    if found is None:
        raise SmError(f"no process of this host serves {disk.vdi}", name="VDIMissing")
    if found[1].paused or found[1].read_only:
        raise Busy(f"{disk.vdi} is paused, or active only to be read")
    return found


def _go_on(work: _Merge, datapath: Datapath) -> None:
    """Let the users go on, with the chain that is on the storage; a mirror is ended.

    May be repeated, and does nothing where they are not held.
    """
    switched = work.switched
    work.prepare(work.left if switched else work.chain)
    if not switched and work.cow.info(work.base.path).hidden is False:
        work.cow.set_hidden(work.base.path, True)
    if datapath.find(work.disk) is None:
        return
    datapath.resume(work.disk, work.left if switched else work.chain)
    if isinstance(datapath, MirroringDatapath):
        datapath.stop_mirror(work.disk)


def _copy_rest(work: _Merge, deadline: float, budget: int) -> int:
    """Copy what is above the base, and prove the copy. Nobody has an image open."""
    formats = work.repository.formats
    held = coverage.held_by(formats, work.chain[: work.into])
    if held.total > budget:
        raise _TooMuch(held.total, budget)
    _require_time(deadline)
    work.repository.journal.observe("leaf-switch: copy")
    copied = work.cow.coalesce(work.chain, work.into, _until(deadline))
    coverage.prove(formats, work.base, held)
    return copied


def _is_read_quickly(formats: Formats, base: ImageRef, seconds: float) -> bool:
    """Whether the tables of the base, which will prove the copy, are read in a part of a pause.

    Nobody writes to it now, and whoever reads it again finds it in memory.
    """
    began = time.monotonic()
    formats.get(base.format).allocated_extents(base.path)
    return time.monotonic() - began < seconds * READ_SHARE


def _until(deadline: float) -> Progress:
    def heard(done: int, total: int) -> None:
        _require_time(deadline)

    return heard


def _require_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise NotInTime("the rest of the leaf could not be merged in time")


def way(datapath: Datapath, served: Served) -> str:
    """How this disk's leaf can be merged while it is in use: `mirror`, `pause`, or not: empty."""
    if served.read_only or served.endpoint.path is not None:
        return ""
    return "mirror" if isinstance(datapath, MirroringDatapath) else "pause"


def settle_all(repository: Repository) -> None:
    """Let the users of all disks of this host go on that were held by a process that has ended.

    A disk whose lock somebody has is left to them; one that cannot go on, to the next try.
    """
    merged = {e.key for e in repository.journal.entries() if e.stage == naming.STAGE}
    if not merged:
        return
    for served in Datapaths(repository.settings).served():
        disk = served.disk
        if served.paused and disk.sr == repository.uuid and disk.vdi in merged:
            arguments = {"vdi_uuid": disk.vdi}
            try:
                with locked(repository, arguments, "settle"), repository.locked("settle"):
                    settle(repository, disk)
            except (SmError, ImageError, OSError) as error:
                log.warning("the users of %s cannot go on yet: %s", disk.vdi, error)
