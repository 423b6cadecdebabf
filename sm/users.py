"""Who uses the disks of an SR, and how the processes that serve them follow a change of images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sm import keys
from sm.hosts import serving
from sm.hosts.calls import ask, chain_text
from sm.repository import Repository
from sm.tree import Forest, Node


@dataclass(frozen=True, slots=True)
class User:
    """One host that has one disk active; `host` is its reference."""

    vdi: str
    host: str
    writable: bool


def of_disks(repository: Repository, vdis: Collection[str]) -> list[User]:
    """The users of some disks, read afresh: from the pool, and from the notes of this host.

    A process of this host is a user though no host key may say so; see `sm.hosts.serving`.
    """
    found = [
        User(uuid, host, mode == "RW")
        for uuid, record in repository.vdis().items()
        if uuid in vdis
        for host, mode in keys.active_hosts(record.sm_config).items()
    ]
    served = {vdi: mode for vdi, mode in serving.here(repository).items() if vdi in vdis}
    if served:
        own = repository.pool.this_host().ref
        told = {user.vdi for user in found if user.host == own}
        found += [User(vdi, own, mode) for vdi, mode in served.items() if vdi not in told]
    return found


def above(repository: Repository, forest: Forest, image: str) -> list[User]:
    """The users of all disks whose chains the image is in."""
    return of_disks(repository, {node.uuid for node in forest.subtree(image)})


def served(repository: Repository, users: Iterable[User]) -> list[User]:
    """Those whose host says that a process serves the disk now.

    A host key without a process is left by a crash. Once a claim is published that stays so: an
    activation looks for claims before it opens anything, and a host answers for a disk before or
    after an activation, never in the middle.
    """
    return [
        user for user in users if ask(repository, user.host, "look", vdi_uuid=user.vdi)["served"]
    ]


def grow(repository: Repository, users: Iterable[User]) -> bool:
    """Whether every host that serves the disk for writing asks for more room as it is written."""
    asked = (
        ask(repository, user.host, "look", vdi_uuid=user.vdi) for user in users if user.writable
    )
    return all(answer["grows"] for answer in asked if answer["served"])


def refresh(repository: Repository, user: User, chain: Sequence[Node]) -> bool:
    """Have the disk served from `chain` (uppermost first); whether a process serves it at all."""
    answer = ask(repository, user.host, "refresh", vdi_uuid=user.vdi, chain=chain_text(chain))
    return bool(answer["served"])
