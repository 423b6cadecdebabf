"""One attached SR on this host, with everything that an operation on it needs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from sm import holding, keys, process
from sm.attachment import Attachments
from sm.config import Settings
from sm.cowutil.base import ImageRef
from sm.cowutil.registry import Formats
from sm.errors import Busy, SmError, VdiMissing
from sm.journal import Journal, Observer, no_observer
from sm.kick import kick
from sm.locks import Locks
from sm.pool.base import Pool, SrRecord, VdiRecord
from sm.scan import Scan, scan
from sm.tree import Node
from sm.volumes.base import Room, VolumeStore
from sm.witness import away

COLLECTOR_OPERATIONS = frozenset({"coalesce", "leaf-coalesce", "active-leaf-coalesce", "pull"})
"""Journal entries that only the collector may finish."""

RECOVERY_SECONDS = 120.0

TAKE_UP_SECONDS = 5.0
"""For a collector that runs to become the owner of what an earlier one left."""

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Repository:
    """An SR that is attached here. Everything that changes it happens inside `locked`."""

    uuid: str
    settings: Settings
    pool: Pool
    formats: Formats
    store: VolumeStore
    journal: Journal
    locks: Locks

    @classmethod
    def open(
        cls,
        sr_uuid: str,
        settings: Settings,
        pool: Pool,
        observer: Observer = no_observer,
        *,
        present: bool = True,
    ) -> Self:
        """Open an SR; raises `SrUnavailable` when it is not attached here, or its storage is gone.

        Without `present` the storage may be gone, and what needs it raises that: ending a use
        destroys nothing on it, so a process is ended, a host key taken away and an SR detached
        whether it is there or not.
        """
        formats = Formats(process.run)
        attachment = Attachments(settings.run / "attached").require(sr_uuid)
        store = attachment.open_store(formats, settings)
        if present:
            store.require_present()
        return cls(
            sr_uuid,
            settings,
            pool,
            formats,
            store,
            Journal(store, settings.host_uuid, observer),
            Locks(settings.locks, settings.host_uuid, settings.lock_seconds),
        )

    def require_attached(self) -> None:
        """Raise `SrUnavailable` when the SR was detached since this was opened."""
        Attachments(self.settings.run / "attached").require(self.uuid)

    def require_master(self) -> None:
        """Raise `LVMMaster` where another host is the one that changes the SR's chains."""
        if not self.pool.is_sr_master(self.record):
            raise SmError(f"SR {self.uuid} is shared", name="LVMMaster")

    @property
    def master(self) -> str:
        """The reference of the host that may change the SR's chains."""
        return self.pool.sr_master(self.record)

    @cached_property
    def record(self) -> SrRecord:
        """The SR's record in the pool, as it was when first asked for."""
        return self.pool.sr_by_uuid(self.uuid)

    @contextmanager
    def locked(self, operation: str) -> Iterator[None]:
        """Hold the SR lock: no other process of this host changes the names in the SR."""
        with self.locks.hold("sr", self.uuid, operation):
            yield

    def scan(self) -> Scan:
        """Read every image's headers. SR lock held, or names may change while it looks."""
        # What cannot be read explains nothing: which images that is about is known from a scan.
        return scan(self.store, self.formats, lambda: holding.by_entries(self.journal.entries()))

    def scan_all(self, records: Mapping[str, VdiRecord]) -> Scan:
        """The same, and what disks need whose images are away: for whoever removes or merges.

        `records`: all of this SR's, by UUID.
        """
        found = self.scan()
        needs = away.references(records, found.forest, self.held())
        return replace(found, forest=found.forest.with_references(needs))

    def look(self, operation: str) -> Scan:
        """Take the SR lock just for a scan."""
        with self.locked(operation):
            return self.scan()

    def vdis(self) -> dict[str, VdiRecord]:
        """The pool's records of this SR's VDIs, by UUID."""
        return {record.uuid: record for record in self.pool.vdis(self.record.ref)}

    def image(self, node: Node) -> ImageRef:
        """The image of a node, to be read or written by its path."""
        return self.images([node])[0]

    def images(self, nodes: Sequence[Node]) -> list[ImageRef]:
        """The images of some nodes, such as a chain, to be read or written by their paths."""
        self.store.prepare([(node.uuid, node.format) for node in nodes])
        return [ImageRef(self.store.path(node.uuid, node.format), node.format) for node in nodes]

    def path(self, uuid: str, image_format: str) -> Path:
        """The path of a volume, to be read or written by it."""
        self.store.prepare([(uuid, image_format)])
        return self.store.path(uuid, image_format)

    def room(self, image_format: str, virtual_size: int, *, written: bool) -> Room:
        """What a new, empty image needs of its volume; `written`: somebody will write to it."""
        image = self.formats.get(image_format)
        empty = image.empty_size(virtual_size)
        return Room(empty, image.full_size(virtual_size) if written else empty)

    def held(self) -> dict[str, str]:
        """UUID of each image that unfinished work is about, and which work. SR lock held.

        The images are only looked at where a record of the journal cannot be read.
        """
        found = self.journal.contents()
        held = holding.by_entries(found.entries)
        if found.unreadable:
            held = {**holding.by_unreadable(found.unreadable, self.scan().forest), **held}
        return held

    def interrupted(self) -> frozenset[str]:
        """The names of the entries of collectors that have ended; running ones see to theirs."""
        return frozenset(
            entry.record_name
            for entry in self.journal.entries()
            if entry.operation in COLLECTOR_OPERATIONS
            and entry.owner_ended(self.settings.host_uuid)
        )

    def settle(self) -> None:
        """Have interrupted work of a collector that has ended finished.

        Call without the SR lock. A collector that runs takes it up; else a process of its own does.
        What a host left that was the SR's master before is left to the master.
        """
        if not self.interrupted() or not self.pool.is_sr_master(self.record):
            return
        run = self.settings.run
        if not kick(run, self.uuid):
            argv = [sys.executable, "-m", "sm.gc.daemon", "--root", str(self.settings.root)]
            process.run([*argv, "--sr", self.uuid, "--recover"], timeout=RECOVERY_SECONDS)
            # A collector that began in this moment has been left to do it.
            if not self.interrupted() or not kick(run, self.uuid):
                return
        deadline = time.monotonic() + TAKE_UP_SECONDS
        while self.interrupted():
            if time.monotonic() > deadline:
                return  # what is still there keeps others from its images
            time.sleep(POLL_SECONDS)

    def require_free(self, uuid: str) -> None:
        """Raise `Busy` when unfinished work is about this image."""
        work = self.held().get(uuid)
        if work is not None:
            raise Busy(f"VDI {uuid}: {work} is under way")

    def vdi(self, uuid: str) -> VdiRecord:
        """One VDI's record; raises `VdiMissing`."""
        record = self.vdis().get(uuid)
        if record is None:
            raise VdiMissing(f"SR {self.uuid} has no VDI {uuid}")
        return record

    def active_hosts(self, record: VdiRecord) -> dict[str, str]:
        """Reference of each host that has the VDI active, and how."""
        return keys.active_hosts(record.sm_config)
