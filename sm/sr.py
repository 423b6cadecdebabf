"""What a driver implements, and what every SR gets for free: attach, detach, scan, sizes, delete.

A driver is one class: how its storage is probed, made, reached and left. It never sees an image.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from sm import catalogue, claims, keys, snapshot
from sm.attachment import Attachment, Attachments
from sm.config import Settings
from sm.datapath.choose import Datapaths
from sm.errors import SmError, SrInUse, SrNotEmpty, StateUnreadable
from sm.hold import collector_held_off
from sm.hosts import leaf_switch, serving
from sm.journal import shown
from sm.locks import Locks
from sm.owner import has_ended
from sm.pool.base import Pool, VdiRecord
from sm.publish import apply_update
from sm.records import is_away, reconcile
from sm.repository import COLLECTOR_OPERATIONS, Repository
from sm.scan import Scan
from sm.smapi.driver_info import DriverInfo
from sm.smapi.probe import sr_list
from sm.tree import Node

log = logging.getLogger(__name__)

SR_RECORD = "sr.json"
"""The record on the storage that says which SR it is."""


@dataclass(frozen=True, slots=True)
class FoundSr:
    """An SR that a probe found. `size` in bytes, if it is known; `more` is told as it is."""

    uuid: str
    devices: tuple[str, ...] = ()
    size: int | None = None
    more: Mapping[str, str] = field(default_factory=dict)

    def members(self) -> dict[str, str]:
        """What the document of a probe says of it."""
        said = {"UUID": self.uuid}
        if self.devices:
            said["Devlist"] = ",".join(self.devices)
        if self.size is not None:
            said["size"] = str(self.size)
        return {**said, **self.more}


class SrDriver(ABC):
    """One type of storage. `host` says where state lives; no method holds any of its own."""

    info: ClassVar[DriverInfo]
    sm_config_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of the SR's sm_config that say how its storage is laid out. The driver finds them in
    `device_config`, which also has `SRmaster`."""

    secret_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of device_config that may instead be given as `<key>_secret`, the UUID of a secret that
    the pool keeps. The driver finds the secret itself."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.attachments = Attachments(settings.run / "attached")

    @abstractmethod
    def probe(self, device_config: Mapping[str, str]) -> list[FoundSr]:
        """The SRs that are there already; leaves nothing attached."""

    @abstractmethod
    def create(self, sr_uuid: str, device_config: Mapping[str, str], size: int) -> None:
        """Make the storage ready for an SR; refuses a place that holds anything already."""

    @abstractmethod
    def attach(self, sr_uuid: str, device_config: Mapping[str, str]) -> Attachment:
        """Make the storage reachable on this host. May be repeated."""

    @abstractmethod
    def detach(self, attachment: Attachment) -> None:
        """Release the storage. May be repeated. Raises `SrInUse`, and then it is still attached."""

    def destroy(self, attachment: Attachment, device_config: Mapping[str, str]) -> None:
        """Release the storage of an SR that holds nothing any more, and give its place back."""
        self.detach(attachment)

    def probe_document(self, found: list[FoundSr], device_config: Mapping[str, str]) -> str:
        """What is answered to a probe that found these SRs."""
        return sr_list([each.members() for each in found])


def create(driver: SrDriver, sr_uuid: str, device_config: Mapping[str, str], size: int) -> None:
    """Make the storage ready for an SR; nobody else of this host does so at the same time."""
    with _locked(driver.settings, sr_uuid, "sr_create"):
        driver.create(sr_uuid, device_config, size)


def reach(driver: SrDriver, sr_uuid: str, device_config: Mapping[str, str]) -> bool:
    """Make the storage of an SR reachable on this host; False when it was, or may have been so."""
    with _locked(driver.settings, sr_uuid, "sr_attach"):
        known = True
        try:
            if driver.attachments.find(sr_uuid) is not None:
                return False
        except StateUnreadable as error:
            # Its disks may be in use: their marks stay, and nothing is released.
            log.warning("SR %s is attached anew: %s", sr_uuid, error)
            known = False
        attachment = driver.attach(sr_uuid, device_config)
        try:
            if not known:
                driver.attachments.set_aside(sr_uuid)
            driver.attachments.save(attachment)
        except BaseException:
            if known:
                driver.detach(attachment)
            raise
        return known


@contextmanager
def _locked(settings: Settings, sr_uuid: str, operation: str) -> Iterator[None]:
    locks = Locks(settings.locks, settings.host_uuid, settings.lock_seconds)
    with locks.hold("sr", sr_uuid, operation):
        yield


@contextmanager
def _leaving(driver: SrDriver, attachment: Attachment) -> Iterator[None]:
    """An SR is not attached from here on; if its storage cannot be released, it still is."""
    driver.attachments.forget(attachment.sr_uuid)
    try:
        yield
    except BaseException:
        driver.attachments.save(attachment)
        raise


def attach(
    driver: SrDriver, pool: Pool, sr_uuid: str, device_config: Mapping[str, str], *, master: bool
) -> None:
    """Attach an SR on this host; on the master, finish interrupted work and scan.

    What a crash of this host left in the records is cleared only on the first attach since its
    boot: later ones may find disks in use.
    """
    if reach(driver, sr_uuid, device_config):
        _clear_marks(driver.settings, pool, sr_uuid)
    repository = Repository.open(sr_uuid, driver.settings, pool)
    serving.settle_starts(repository)
    serving.publish_all(repository)
    leaf_switch.settle_all(repository)
    if not master:
        return
    repository.settle()
    with repository.locked("sr_attach"):
        repository.store.remove_unfinished()
        snapshot.recover(repository)
        scan_sr(repository)


def _clear_marks(settings: Settings, pool: Pool, sr_uuid: str) -> None:
    """Take back what this host is said to use, but of disks that its processes have open."""
    key, host_uuid = keys.host_key(pool.this_host().ref), settings.host_uuid
    served = {disk.vdi for disk in Datapaths(settings).in_use() if disk.sr == sr_uuid}
    for record in pool.vdis(pool.sr_by_uuid(sr_uuid).ref):
        if key in record.sm_config and record.uuid not in served:
            pool.remove_from_vdi_sm_config(record.ref, key)
        mark = record.sm_config.get(keys.ACTIVATING)
        if mark is not None and has_ended(mark, host_uuid):
            pool.remove_from_vdi_sm_config(record.ref, keys.ACTIVATING)


def detach(driver: SrDriver, pool: Pool, sr_uuid: str) -> None:
    """Detach an SR from this host; refused while a disk is active here or a collector works."""
    attachment = driver.attachments.find(sr_uuid)
    if attachment is None:
        return
    _refuse_active(driver.settings, pool, sr_uuid)
    repository = Repository.open(sr_uuid, driver.settings, pool, present=False)
    with (
        collector_held_off(driver.settings.run, sr_uuid, driver.settings.host_uuid, "sr_detach"),
        repository.locks.hold("collector", sr_uuid, "sr_detach"),
        repository.locked("sr_detach"),
        _leaving(driver, attachment),
    ):
        # An activation since then has its key before it looks again whether the SR is attached.
        _refuse_active(driver.settings, pool, sr_uuid)
        driver.detach(attachment)


def _refuse_active(settings: Settings, pool: Pool, sr_uuid: str) -> None:
    """Raise `SrInUse` while a host key, or a process, says that a disk is in use on this host."""
    key = keys.host_key(pool.this_host().ref)
    active = {vdi.uuid for vdi in pool.vdis(pool.sr_by_uuid(sr_uuid).ref) if key in vdi.sm_config}
    active |= {disk.vdi for disk in Datapaths(settings).in_use() if disk.sr == sr_uuid}
    if active:
        raise SrInUse(f"active on this host: {', '.join(sorted(active))}")


def scan_sr(repository: Repository) -> Scan:
    """Bring the pool's records in line with the storage. SR lock held. No image is changed."""
    found = repository.scan()
    host = repository.settings.host_uuid
    changes = reconcile(
        found, repository.vdis().values(), repository.held(), lambda owner: has_ended(owner, host)
    )
    pool = repository.pool
    for record in changes.forget:
        log.info("forget VDI %s: it was being made or deleted, or is garbage", record.uuid)
        pool.forget_vdi(record.ref)
    for record in changes.away:
        log.warning("VDI %s: its image is away", record.uuid)
    _introduce(repository, changes.introduce)
    for update in changes.update:
        apply_update(pool, update)
    for uuid, node in found.forest.nodes.items():
        defect = found.forest.defect(uuid)
        if defect:
            log.warning("image %s: %s", node.uuid, defect)
    update_sizes(repository, found)
    catalogue.remember(repository)
    return found


def _introduce(repository: Repository, nodes: Sequence[Node]) -> None:
    """Give records to images, with the names that the storage remembers."""
    if not nodes:
        return
    known = catalogue.recall(repository).disks
    new = {node.uuid: node for node in nodes}
    refs = {uuid: record.ref for uuid, record in repository.vdis().items()}
    # A snapshot names its original by reference, and a record is written once and whole.
    for uuid in catalogue.originals_first(new, known):
        log.info("introduce VDI %s", uuid)
        record = catalogue.new_record(repository, new[uuid], known.get(uuid), refs)
        refs[uuid] = repository.pool.introduce_vdi(record)


def update_sizes(repository: Repository, found: Scan) -> None:
    """Set the sizes of the SR: what its disks promise, what the storage has and uses."""
    space = repository.store.space()
    repository.pool.set_sr_sizes(
        repository.record.ref,
        virtual_allocation=sum(node.virtual_size for node in found.forest if not node.hidden),
        physical_size=space.total,
        physical_utilisation=space.used,
    )


def delete(driver: SrDriver, pool: Pool, sr_uuid: str, device_config: Mapping[str, str]) -> None:
    """Destroy an SR that holds no disk any more, garbage included, and detach it.

    Refused while there is a visible image, or anything whose meaning is not known.
    """
    repository = Repository.open(sr_uuid, driver.settings, pool)
    run, host = driver.settings.run, driver.settings.host_uuid
    repository.settle()
    with (
        collector_held_off(run, sr_uuid, host, "sr_delete"),
        repository.locks.hold("collector", sr_uuid, "sr_delete"),
    ):
        _empty(repository)
        attachment = driver.attachments.require(sr_uuid)
        with _leaving(driver, attachment):
            driver.destroy(attachment, device_config)


def _empty(repository: Repository) -> None:
    """Take away what is left of an SR without disks; see `delete`."""
    with repository.locked("sr_delete"):
        snapshot.recover(repository)
        found = repository.scan()
        kept = [node.uuid for node in found.forest if not node.hidden]
        records = repository.vdis()
        kept += [uuid for uuid, record in records.items() if _is_lost(record, found)]
        unknown = [reference.name for reference in found.forest.references]
        journal = repository.journal.contents()
        entries = journal.entries
        # What a collector had begun is of no use without a disk.
        merges = [entry for entry in entries if entry.operation in COLLECTOR_OPERATIONS]
        unknown += [entry.record_name for entry in entries if entry not in merges]
        unknown += [shown(each.name) for each in journal.unreadable]
        if kept or unknown:
            raise SrNotEmpty(", ".join(kept + unknown))
        for entry in merges:
            claims.withdraw_merge(repository, entry.data["into"])
        for record in records.values():
            repository.pool.forget_vdi(record.ref)
        for root in found.forest.roots:
            for node in reversed(found.forest.subtree(root)):
                repository.store.remove(node.uuid, node.format)
        repository.store.forget_descriptions()
        for name in repository.store.records():
            repository.store.remove_record(name)
        repository.store.remove_unfinished()


def _is_lost(record: VdiRecord, found: Scan) -> bool:
    """Whether a disk has a record and no image, which may come back."""
    return record.managed and record.uuid not in found.forest and is_away(record)


def mark(repository_uuid: str) -> bytes:
    """The content of the record that says which SR a storage holds."""
    return json.dumps({"uuid": repository_uuid}).encode("utf-8")


def marked(content: bytes | None) -> str | None:
    """The SR that a storage says it holds, if it says so."""
    if content is None:
        return None
    try:
        return str(json.loads(content)["uuid"])
    except (ValueError, KeyError, TypeError) as error:
        raise SmError(f"{SR_RECORD} on the storage is damaged", name="SRBadXML") from error
