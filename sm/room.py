"""The room that the volume of a disk needs while it is written, where volumes have sizes.

Only the SR master gives room. A host that is about to serve a disk asks for it first; afterwards
the master may be told that it is not needed any more.
"""

from __future__ import annotations

from sm.errors import VdiMissing
from sm.repository import Repository
from sm.tree import Node
from sm.volumes.base import Room


def give(repository: Repository, vdi_uuid: str, now: int | None = None) -> None:
    """Give the volume of a disk the room that it needs, on the SR master.

    `now`: how many bytes it must have at least, told by who has it open; without it nobody has, and
    the image tells itself. Raises `SrNoSpace`.
    """
    repository.require_master()
    with repository.locked("give_room"):
        node = _leaf(repository, vdi_uuid)
        spare = repository.settings.thin_spare_bytes
        least = _used(repository, node) + spare if now is None else now
        room = Room(least, _full(repository, node))
        repository.store.make_room(node.uuid, node.format, room, in_use=now is not None)


def take_back(repository: Repository, vdi_uuid: str) -> None:
    """Take what the volume of a disk that nobody has open does not need, on the SR master."""
    repository.require_master()
    with repository.locked("take_back_room"):
        node = _leaf(repository, vdi_uuid)
        room = Room(_used(repository, node), _full(repository, node))
        repository.store.give_back_room(node.uuid, node.format, room)


def _leaf(repository: Repository, vdi_uuid: str) -> Node:
    forest = repository.scan().forest
    if vdi_uuid not in forest:
        raise VdiMissing(f"SR {repository.uuid} has no image for VDI {vdi_uuid}")
    return forest[vdi_uuid]


def _used(repository: Repository, node: Node) -> int:
    return repository.formats.get(node.format).used_size(repository.image(node).path)


def _full(repository: Repository, node: Node) -> int:
    return repository.formats.get(node.format).full_size(node.virtual_size)
