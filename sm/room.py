"""The room that the volume of a disk needs while it is written, where volumes have sizes.

Only the SR master gives room. A host that is about to serve a disk asks for it first, and again
while the disk is written; afterwards the master may be told that it is not needed any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from sm.errors import SrNoSpace, VdiMissing
from sm.repository import Repository
from sm.tree import Node
from sm.volumes.base import Room


@dataclass(frozen=True, slots=True)
class InUse:
    """What the volume of a disk in use is to have, told by who has it open; bytes.

    `size` is what it has, as far as that host knows.
    """

    format: str
    now: int
    size: int


def give(repository: Repository, vdi_uuid: str, *, whole: bool = False) -> None:
    """Give the volume of a disk that nobody has open what it needs to be written.

    `whole`: all that it can ever need, because nobody will ask for more. Raises `SrNoSpace`.
    """
    repository.require_master()
    with repository.locked("give_room"):
        node = _leaf(repository, vdi_uuid)
        full = _full(repository, node)
        spare = repository.settings.thin_spare_bytes
        room = Room(full if whole else _used(repository, node) + spare, full)
        repository.store.make_room(node.uuid, node.format, room, in_use=False)


def give_more(repository: Repository, vdi_uuid: str, wanted: InUse) -> None:
    """Give the volume of a disk in use more. Raises `SrNoSpace`.

    Nothing is done when its size is another than the one that was told: then it has grown before,
    or a snapshot has given its name to another volume.
    """
    repository.require_master()
    with repository.locked("give_room"):
        store, image_format = repository.store, repository.formats.get(wanted.format)
        volume = store.volume(vdi_uuid, wanted.format)
        if volume.size != wanted.size:
            return
        for _, path in store.headers([volume]):
            full = image_format.full_size(image_format.info(path).virtual_size)
            now, free = min(wanted.now, full), store.space().free
            if now - volume.size > free:
                raise SrNoSpace(f"{vdi_uuid} needs {now - volume.size} bytes, {free} are free")
            store.make_room(vdi_uuid, wanted.format, Room(now, full), in_use=True)


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
