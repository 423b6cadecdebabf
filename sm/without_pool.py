"""Disks that are attached at a boot, before there is a pool that could be told.

There is no host key, so the note of the process speaks for it; see `sm.hosts.serving`.
"""

from __future__ import annotations

import logging

from sm import activation, keys
from sm.datapath.base import Disk
from sm.datapath.choose import Datapaths
from sm.errors import Busy, SmError
from sm.repository import COLLECTOR_OPERATIONS, Repository

log = logging.getLogger(__name__)


def serve(repository: Repository, vdi_uuid: str) -> None:
    """Serve a disk to be written, of which no pool can be told.

    A merge that began before cannot be asked to give way, so beside one of its chain it is refused
    (`Busy`). Repeated, no change. The disk's lock is held.
    """
    disk = Disk(repository.uuid, vdi_uuid)
    if Datapaths(repository.settings).settle(disk) is not None:
        activation.serve(repository, vdi_uuid, writable=True)
        return
    _refuse_beside_merge(repository, vdi_uuid)
    activation.serve(repository, vdi_uuid, writable=True)
    try:
        # A merge or a detach that began meanwhile may have looked before there was a note.
        repository.require_attached()
        _refuse_beside_merge(repository, vdi_uuid)
    except BaseException:
        activation.stop(repository, vdi_uuid)
        raise


def _refuse_beside_merge(repository: Repository, vdi_uuid: str) -> None:
    merges = [
        entry
        for entry in repository.journal.entries()
        if entry.operation in COLLECTOR_OPERATIONS
        and not entry.owner_ended(repository.settings.host_uuid)
    ]
    if merges:
        chain = activation.chain_of(repository, vdi_uuid)()
        for entry in merges:
            if not chain.isdisjoint(entry.images):
                raise Busy(f"the chain of {vdi_uuid} is being merged; try again when that ended")


def stop(repository: Repository, vdi_uuid: str) -> None:
    """End what `serve` began, and take back the key that it may have by now.

    Without a pool a key stays, and the doctor finds it. The disk's lock is held.
    """
    activation.stop(repository, vdi_uuid)
    try:
        record = repository.vdis().get(vdi_uuid)
        if record is not None:
            key = keys.host_key(repository.pool.this_host().ref)
            repository.pool.remove_from_vdi_sm_config(record.ref, key)
    except SmError as error:
        log.warning("the host key of %s stays, if it has one: %s", vdi_uuid, error)
