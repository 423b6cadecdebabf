"""Claims: who is about to change which images, published so that activation sees it, and yields.

A claim is a key of the SR in the pool. Whoever wants images for work first publishes a claim, then
looks whether a disk above is active; activation first writes its host key, then looks for claims.
So at least one of them sees the other. Merges give way to users: they are asked by a file in the
run folder of their host, named for the one claim that it is about, so that it cannot stop another.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sm import decode, keys
from sm.errors import Busy, DuplicateKey
from sm.owner import Owner
from sm.repository import Repository


@dataclass(frozen=True, slots=True)
class Claim:
    """The word of `owner` that it changes `images`; `id` is this claim's alone."""

    key: str
    id: str
    images: frozenset[str]
    owner: Owner


def standing(repository: Repository) -> list[Claim]:
    """The claims on the SR, read afresh.

    One that cannot be read claims the image in its key, for somebody who is not known to have
    ended; whoever it keeps off is told.
    """
    kept = repository.pool.sr_by_uuid(repository.uuid).sm_config
    return [_standing(key, value) for key, value in kept.items() if is_claim(key)]


def _standing(key: str, value: str) -> Claim:
    try:
        return parse(key, value)
    except ValueError:
        target = key.removeprefix(keys.CLAIM_PREFIX).removeprefix(keys.CHANGE_PREFIX)
        unknown = Owner("", "", 0, 0, f"the claim {key}, which cannot be read")
        return Claim(key, "", frozenset((target,)), unknown)


def is_claim(key: str) -> bool:
    """Whether a key of an SR is that of a claim."""
    return key.startswith((keys.CLAIM_PREFIX, keys.CHANGE_PREFIX))


def parse(key: str, value: str) -> Claim:
    """A claim from its key and value; ValueError for something else."""
    try:
        content = decode.members(value, {"id": (str,), "images": (list,), "owner": (str,)})
        owner = Owner.parse(content["owner"])
        return Claim(key, content["id"], frozenset(decode.texts(content["images"])), owner)
    except ValueError as error:
        raise ValueError(f"not a claim: {value[:100]!r}: {error}") from error


def publish_merge(repository: Repository, target: str, images: Collection[str]) -> Claim:
    """Claim images for a merge into `target`, which is one of them."""
    return _publish(repository, f"{keys.CLAIM_PREFIX}{target}", images, "coalesce")


def withdraw_merge(repository: Repository, target: str) -> None:
    """Give up the claim on a merge into `target`, if there is one."""
    _withdraw(repository, f"{keys.CLAIM_PREFIX}{target}")


@contextmanager
def changing(repository: Repository, vdi_uuid: str, operation: str) -> Iterator[None]:
    """Claim a disk's image for a change that another host must not miss.

    On an SR of one host the SR lock does the same, and nothing is written. The disk's lock is held,
    so a claim of this host was left by a process that has ended. Raises `Busy` when somebody else
    has the claim.
    """
    if not repository.record.shared:
        yield
        return
    key = f"{keys.CHANGE_PREFIX}{vdi_uuid}"
    if key in repository.pool.sr_by_uuid(repository.uuid).sm_config:
        drop_stale(repository)
    try:
        _publish(repository, key, (vdi_uuid,), operation)
    except DuplicateKey as error:
        raise Busy(f"VDI {vdi_uuid} is being changed by another host") from error
    try:
        yield
    finally:
        _withdraw(repository, key)


def drop_stale(repository: Repository) -> None:
    """Withdraw the claims on changes whose owner was a process of this host and has ended.

    Claims of merges belong to journal entries, and end with them.
    """
    for claim in standing(repository):
        if claim.key.startswith(keys.CHANGE_PREFIX) and claim.owner.ended(
            repository.settings.host_uuid
        ):
            _withdraw(repository, claim.key)


def ask_to_yield(repository: Repository, claim: Claim) -> None:
    """Ask the merge behind a claim, which runs on this host, to give up."""
    path = _request(repository, claim.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def asked_to_yield(repository: Repository, claim: Claim) -> bool:
    """Whether somebody wants the merge behind a claim to give up."""
    return _request(repository, claim.id).exists()


def forget_request(repository: Repository, key: str) -> None:
    """Take away the request to the claim `key`, if both stand; it was heard."""
    for claim in standing(repository):
        if claim.key == key:
            _request(repository, claim.id).unlink(missing_ok=True)


def forget_requests(repository: Repository) -> None:
    """Take away the requests whose claims are gone; one may have come too late to be seen."""
    claimed = {claim.id for claim in standing(repository)}
    for path in _request(repository, "").parent.glob(_request(repository, "*").name):
        if path.name.split(".")[1] not in claimed:
            path.unlink(missing_ok=True)


def _request(repository: Repository, claim_id: str) -> Path:
    return repository.settings.run / "gc" / f"{repository.uuid}.{claim_id}.yield"


def _publish(repository: Repository, key: str, images: Collection[str], operation: str) -> Claim:
    owner = Owner.this_process(repository.settings.host_uuid, operation)
    claim = Claim(key, uuid.uuid4().hex, frozenset(images), owner)
    value = json.dumps(
        {"id": claim.id, "images": sorted(images), "owner": owner.text}, separators=(",", ":")
    )
    repository.pool.add_to_sr_sm_config(repository.record.ref, key, value)
    return claim


def _withdraw(repository: Repository, key: str) -> None:
    repository.pool.remove_from_sr_sm_config(repository.record.ref, key)
