"""What a datapath does: serve a disk from its chain, and follow the chain's changes.

One process serves one disk. Every call has a deadline; an outcome that cannot be known within it is
reported as unknown, and the caller decides from what is on the storage. A datapath never follows a
name that is stored in an image: it is given the whole chain.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from sm.cowutil.base import ImageRef
from sm.errors import SmError

log = logging.getLogger(__name__)


class DatapathFailed(SmError):
    """The datapath refused, or did what it should not."""

    name = "DatapathFailed"


class TapdiskFailed(DatapathFailed):
    """The same, where that is tapdisk."""

    name = "TapdiskFailed"


class OutcomeUnknown(DatapathFailed):
    """No answer within the deadline: the request was carried out, or was not, or may yet be."""


class NotInTime(DatapathFailed):
    """What was to be over by a deadline was not; all is as it was before."""


@dataclass(frozen=True, slots=True)
class Disk:
    """What is served: one VDI of one SR, by UUID."""

    sr: str
    vdi: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach a served disk.

    `nbd` is an NBD URI over the Unix socket `socket`; the export is named by the VDI's UUID. Both
    are None where the disk is shown as the file or block device `path` instead.
    """

    nbd: str | None
    socket: Path | None
    path: Path | None
    pid: int


@dataclass(frozen=True, slots=True)
class Served:
    """One disk that a process of this host serves now.

    `chain` is what it was last told to serve, uppermost first. While `paused` its users wait, and
    no image is open. `grows`: it was opened with a pace, see `Datapath.open`.
    """

    disk: Disk
    datapath: str
    endpoint: Endpoint
    chain: tuple[ImageRef, ...]
    read_only: bool
    paused: bool = False
    grows: bool = False


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the users of a disk did since it was opened; None for what the datapath cannot tell.

    Bytes and requests. Where it does not see single requests, the bytes are those that it moved
    from and to the images for them. `clients`: how many are connected now.
    """

    bytes_read: int | None = None
    bytes_written: int | None = None
    reads: int | None = None
    writes: int | None = None
    clients: int | None = None


class JobState(StrEnum):
    """Where a commit stands. Only `DONE` means that the data is in the base, and durable.

    `READY` is said of a mirror alone: everything was copied once, and it keeps up.
    """

    RUNNING = "running"
    READY = "ready"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Job:
    """A commit as last seen. Bytes done and in all; both may grow. `error` says why it failed."""

    state: JobState
    done: int = 0
    total: int = 0
    error: str = ""


class Datapath(ABC):
    """One kind of process that serves disks on this host."""

    name: ClassVar[str]
    formats: ClassVar[frozenset[str]]
    """The formats that every image of a chain must have one of."""

    @abstractmethod
    def open(
        self,
        disk: Disk,
        chain: Sequence[ImageRef],
        *,
        read_only: bool,
        path: Path | None = None,
        pace: int | None = None,
    ) -> Endpoint:
        """Serve the chain (uppermost first). Repeated for the same chain and mode, no change.

        With `path` the disk is shown as a file there instead of over NBD; a datapath that cannot
        raises `Unimplemented`. Raises `VdiInUse` when the disk is served already in another way.
        `pace`, for a `GrowingDatapath` alone: the volume of the leaf grows while it is written, by
        no more than so many bytes per second, unless writes wait for it anyway.
        """

    @abstractmethod
    def close(self, disk: Disk) -> None:
        """Stop serving, with everything acknowledged on the storage; no change if not served."""

    @abstractmethod
    def find(self, disk: Disk) -> Served | None:
        """The process of a disk, found again after our own restart; None when there is none."""

    @abstractmethod
    def served(self) -> list[Served]:
        """Every disk that this kind of datapath serves on this host."""

    @abstractmethod
    def half_started(self) -> list[Disk]:
        """The disks of which a start was noted, and no process is found yet; nothing is changed.

        Either somebody has the lock of the disk and is about to start one, or has ended there.
        """

    @abstractmethod
    def settle(self, disk: Disk) -> None:
        """End what is half started, if anything is, and forget it. The disk's lock is held."""

    @abstractmethod
    def refresh(self, disk: Disk, chain: Sequence[ImageRef]) -> None:
        """Go over to another chain that reads the same: a new leaf on top, or other parents.

        Where the leaf names another parent than the chain says, it is made to name that one. For
        the same chain the parents are opened anew, with what others changed in their headers.
        The disk's users notice a short wait at most. After `OutcomeUnknown` call it again. Raises
        `Busy` while the disk has a commit that this would end.
        """

    @abstractmethod
    def pause(self, disk: Disk, seconds: float | None = None) -> None:
        """Finish the requests under way and close all images; the users wait until `resume`.

        Others may then change and rename the images. Repeated, no change. Raises `Busy` while the
        disk has a commit or a mirror that this would end, or `DatapathFailed`, with nothing
        changed, when the requests under way do not end within `seconds`, or within the datapath's
        own patience.
        """

    @abstractmethod
    def resume(self, disk: Disk, chain: Sequence[ImageRef]) -> None:
        """Open a chain of the same size, and let the users go on; no change if not paused.

        After a failure the disk is still paused, and this may be called with another chain.
        """

    @abstractmethod
    def statistics(self, disk: Disk) -> Statistics:
        """What its users did so far."""


@dataclass(frozen=True, slots=True)
class Level:
    """How far the leaf of a disk has filled its volume; bytes.

    `used`: the end of what was written to the leaf, `size`: that of its volume. `held`: writes wait
    because there is too little between.
    """

    used: int
    size: int
    held: bool


class Gauge(ABC):
    """What tells how full the volume of a disk's leaf is, for whoever gives it room.

    One at a time for each disk; a context manager. Its calls raise `DatapathFailed`, and
    `OutcomeUnknown` where the process does not answer.
    """

    holds: ClassVar[bool]
    """Whether `hold` is needed; else writes that find no room wait by themselves."""

    @abstractmethod
    def level(self) -> Level | None:
        """The present level; None while no leaf is open."""

    @abstractmethod
    def wait(self, mark: int, seconds: float) -> None:
        """Wait until `used` may have passed `mark`, or the leaf is another, or so long at most."""

    @abstractmethod
    def hold(self) -> None:
        """Have the users wait, with the images open; a merge in the process is given up for that.

        No change where they wait already, or where that cannot be.
        """

    @abstractmethod
    def release(self) -> None:
        """Let the users go on; no change if they do not wait."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Give up the line to the process."""


class GrowingDatapath(Datapath):
    """A datapath whose leaf may have a volume that grows while it is written.

    Held users stay so through a refresh and a pause, until the gauge lets them go on.
    """

    @abstractmethod
    def growing(self) -> list[Served]:
        """The disks that were opened with a pace, by what was noted of living processes."""

    @abstractmethod
    def gauge(self, disk: Disk) -> Gauge:
        """The gauge of a disk that was opened with a pace."""


class CommittingDatapath(Datapath):
    """A datapath that can merge images of a chain that it has open.

    Where it cannot, others may merge them beside it, and it is then refreshed.
    """

    commits_runs: ClassVar[bool]
    """Whether one commit may be of more than one image; else `base` is the parent of `top`."""

    @abstractmethod
    def start_commit(
        self, disk: Disk, top: ImageRef, base: ImageRef, bytes_per_second: int = 0
    ) -> None:
        """Begin to merge `top`, and all between, into `base`; both are below the leaf.

        It copies no faster than `bytes_per_second`, 0 for no limit; see `limit_commit`.

        Raises `Busy` when the disk has another job.
        """

    def limit_commit(self, disk: Disk, bytes_per_second: int) -> None:
        """Let the running commit of a disk copy no faster; 0 for no limit.

        A datapath that cannot goes on as fast as it will.
        """
        log.info("%s cannot limit a commit to %d bytes per second", self.name, bytes_per_second)

    @abstractmethod
    def job(self, disk: Disk) -> Job | None:
        """The commit of a disk; None when there is none, or when its end was taken note of."""

    @abstractmethod
    def finish_commit(self, disk: Disk) -> None:
        """Take note of the end of a commit whose state is `DONE`, `FAILED` or `CANCELLED`.

        After `DONE`, the merged images are closed and may be deleted.
        """

    @abstractmethod
    def cancel_commit(self, disk: Disk) -> None:
        """Stop a commit; the chain reads as before, and the commit may be begun again."""


class MirroringDatapath(CommittingDatapath):
    """A datapath that can merge its leaf, too, while the leaf is written.

    A mirror copies the leaf and all below it, down to `base`, into `base`, and goes on with what is
    written meanwhile. The leaf stays in charge until a pause; nothing but the leaf sees the base,
    and covers it, so whatever ends a mirror leaves the disk reading as before.
    """

    @abstractmethod
    def start_mirror(self, disk: Disk, base: ImageRef) -> None:
        """Begin to copy the leaf, and all between, into `base`.

        Raises `Busy` when the disk has another job, and `Unimplemented` for one that cannot be
        paused.
        """

    @abstractmethod
    def mirror(self, disk: Disk) -> Job | None:
        """How the mirror of a disk stands; None when there is none.

        What it still has to copy is `total - done`, and grows as users write. `total` is 0 before
        that is known.
        """

    @abstractmethod
    def pause_mirrored(self, disk: Disk, seconds: float) -> None:
        """As `pause`, with the rest of the leaf brought into the base, and the mirror ended.

        Afterwards the base, with what is below it, holds what the disk reads as, durably, and may
        take the place of the leaf: `resume` with the chain that begins with it. Raises
        `NotInTime` when that takes longer than `seconds`, `DatapathFailed` when it fails; then the
        mirror is ended, and users go on with the leaf.
        """

    @abstractmethod
    def stop_mirror(self, disk: Disk) -> None:
        """End a mirror; the chain is as before it. No change when there is none."""
