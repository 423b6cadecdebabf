"""Bringing a new image to the light: first its record, then its name.

Stopped between the two, there is a record without an image, and with a mark that says why, which
the next scan forgets: the caller never learned of the VDI. The other order could bring back a
nameless disk.
"""

from __future__ import annotations

from dataclasses import replace

from sm import keys
from sm.owner import Owner
from sm.pool.base import NewVdi, Pool, VdiRecord
from sm.records import Update, difference, sm_config_of
from sm.repository import Repository
from sm.tree import Node
from sm.volumes.base import Make


def publish(repository: Repository, node: Node, record: NewVdi, make: Make) -> None:
    """Add the image that `make` writes, and `record` with the keys that describe `node`."""
    pool = repository.pool
    owner = Owner.this_process(repository.settings.host_uuid, "create")
    sm_config = {**sm_config_of(node), keys.CREATING: owner.text}
    introduced: list[str] = []

    def introduce(used: int) -> None:
        complete = replace(
            record, sm_config={**record.sm_config, **sm_config}, physical_utilisation=used
        )
        introduced.append(pool.introduce_vdi(complete))

    try:
        room = repository.room(node.format, node.virtual_size, written=not record.is_a_snapshot)
        repository.store.create(node.uuid, node.format, make, introduce, room)
    except BaseException:
        for ref in introduced:
            pool.forget_vdi(ref)
        raise
    for ref in introduced:
        pool.remove_from_vdi_sm_config(ref, keys.CREATING)


def bring_up_to_date(pool: Pool, node: Node, record: VdiRecord) -> None:
    """Make a record say what its image says, where it does not."""
    update = difference(node, record)
    if update is not None:
        apply_update(pool, update)


def apply_update(pool: Pool, update: Update) -> None:
    """Make one record say what its image says."""
    if update.fields:
        pool.update_vdi(update.ref, **update.fields)
    for key, value in update.sm_config.items():
        pool.remove_from_vdi_sm_config(update.ref, key)
        if value is not None:
            pool.add_to_vdi_sm_config(update.ref, key, value)
