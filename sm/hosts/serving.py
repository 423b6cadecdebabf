"""What the processes of a host say of the disks of an SR, and host keys where they are missing.

A process is usually told by a host key, which is there before it. A disk that was attached without
a pool at hand has none, nor has one whose key was lost with the database. Then the note of the
process speaks for it, and the key is added when a pool answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sm import keys
from sm.datapath.base import Disk
from sm.datapath.choose import Datapaths
from sm.errors import DuplicateKey, SmError
from sm.hosts.answers import ask_other
from sm.hosts.arguments import Answer, Arguments, locked
from sm.repository import Repository

log = logging.getLogger(__name__)


def here(repository: Repository) -> dict[str, bool]:
    """The disks of the SR that a process of this host serves, or is about to; whether to write.

    By the notes alone: no process is asked, and nothing else is read.
    """
    noted = Datapaths(repository.settings).in_use()
    return {disk.vdi: writable for disk, writable in noted.items() if disk.sr == repository.uuid}


def publish(repository: Repository, disk: Disk) -> bool:
    """Add the host key of a disk that this host serves without one. The disk's lock is held.

    What is half started is ended. Returns whether the disk has the key of this host. Where another
    host has it in a way that excludes this, none is added: the pool was told that this host is off.
    """
    record = repository.vdis().get(disk.vdi)
    if record is None:
        return False
    host, present = repository.pool.this_host().ref, repository.active_hosts(record)
    if host in present:
        return True
    found = Datapaths(repository.settings).settle(disk)
    if found is None:
        return False
    mode = "RO" if found[1].read_only else "RW"
    if "RW" in present.values() or (present and mode == "RW"):
        log.warning("%s is served here without a key, and active elsewhere", disk.vdi)
        return False
    try:
        repository.pool.add_to_vdi_sm_config(record.ref, keys.host_key(host), mode)
    except DuplicateKey:
        return True
    log.info("%s is served here, and its key was missing: added", disk.vdi)
    return True


def publish_all(repository: Repository) -> None:
    """Do so for all disks of the SR; one whose lock somebody has is left to them."""
    served = here(repository)
    if not served:
        return
    key, records = keys.host_key(repository.pool.this_host().ref), repository.vdis()
    for vdi in served:
        if vdi in records and key in records[vdi].sm_config:
            continue
        try:
            with locked(repository, {"vdi_uuid": vdi}, "publish"):
                publish(repository, Disk(repository.uuid, vdi))
        except SmError as error:
            log.warning("%s is served here without a key: %s", vdi, error)


@dataclass(frozen=True, slots=True)
class ServedElsewhere:
    """A disk that another host (a reference) serves, by its own word."""

    host: str
    vdi: str
    writable: bool


def publish_everywhere(repository: Repository) -> list[ServedElsewhere]:
    """Have every host that has the SR attached do so; returns what the others serve.

    One that does not answer is passed over: what it may serve is known by its keys. No lock is
    held. With one host no request leaves this process.
    """
    publish_all(repository)
    found: list[ServedElsewhere] = []
    if not repository.record.shared:
        return found
    own = repository.pool.this_host().ref
    for pbd in repository.pool.pbds(repository.record.ref):
        if pbd.currently_attached and pbd.host != own:
            try:
                answer = ask_other(repository, pbd.host, "serving")
            except SmError as error:
                log.info("what host %s serves is known by its keys alone: %s", pbd.host, error)
                continue
            for vdi, writable in answer["disks"].items():
                found.append(ServedElsewhere(pbd.host, vdi, bool(writable)))
    return found


def settle_starts(repository: Repository) -> None:
    """End what activations that were killed left half started on this host, of disks of the SR.

    A disk whose lock somebody has is left to them; one that cannot be settled, to the next try.
    """
    for disk in Datapaths(repository.settings).half_started():
        if disk.sr != repository.uuid:
            continue
        try:
            with locked(repository, {"vdi_uuid": disk.vdi}, "settle"):
                Datapaths(repository.settings).settle(disk)
        except SmError as error:
            log.warning("the half started process of %s is still there: %s", disk.vdi, error)


def _serving(repository: Repository, arguments: Arguments) -> Answer:
    """Which disks of the SR this host serves, whether to write; each has its key afterwards."""
    del arguments
    publish_all(repository)
    return {"disks": here(repository)}


ACTIONS: Mapping[str, Callable[[Repository, Arguments], Answer]] = {"serving": _serving}
"""See `sm.hosts.actions`."""
