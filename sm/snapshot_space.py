"""What the new images of a copy take of the storage, told before anything is begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sm import users
from sm.cowutil.base import CowUtil
from sm.errors import SrNoSpace
from sm.repository import Repository
from sm.tree import Node
from sm.users import User
from sm.volumes.base import Room


def leaf_room(repository: Repository, leaf: Node, active: Sequence[User]) -> Room:
    """What a new, empty leaf in the place of `leaf` needs: room to be written to at once.

    All that it may ever need, if its users, `active`, include one who will not ask for more.
    """
    room = repository.room(leaf.format, leaf.virtual_size, written=True)
    if not active:
        return room
    if repository.store.grows and not users.grow(repository, active):
        return replace(room, now=room.full)
    return replace(room, now=room.now + repository.settings.thin_spare_bytes)


def require(repository: Repository, cow: CowUtil, virtual_size: int, rooms: Sequence[Room]) -> int:
    """What new, empty images with these rooms take, in bytes.

    Raises `SrNoSpace` where so many are not free.
    """
    data = cow.sparse_size(virtual_size)
    needed = sum(repository.store.cost(room, data) for room in rooms)
    free = repository.store.space().free
    if free < needed:
        raise SrNoSpace(f"{free} bytes are free, {needed} are needed")
    return needed
