"""Activation: the host key that says where and how a VDI is in use, against offline merging.

Both sides first publish, then look, so that at least one of them sees the other. A collector
publishes its claim on the SR and then reads the host keys; activation writes its host key and then
reads the claims on the VDI's chain.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from sm import keys
from sm.errors import Busy, DuplicateKey, VdiInUse, VdiUnavailable
from sm.owner import Owner
from sm.pool.base import VdiRecord
from sm.repository import Repository
from sm.tree import Forest

CLAIM_WAIT_SECONDS = 20.0
CLAIM_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Claim:
    """A collector's word that it is merging `images` offline."""

    key: str
    images: frozenset[str]
    owner: str


def claims(repository: Repository) -> list[Claim]:
    """The claims on the SR, read afresh."""
    found = []
    for key, value in repository.pool.sr_by_uuid(repository.uuid).sm_config.items():
        if key.startswith(keys.CLAIM_PREFIX):
            content = json.loads(value)
            found.append(Claim(key, frozenset(content["images"]), content["owner"]))
    return found


def publish_claim(repository: Repository, target: str, images: list[str]) -> str:
    """Claim images for an offline merge into `target`; returns the key, to withdraw it by."""
    owner = Owner.this_process(repository.settings.host_uuid, "coalesce").text
    key = f"{keys.CLAIM_PREFIX}{target}"
    value = json.dumps({"images": images, "owner": owner}, separators=(",", ":"))
    repository.pool.add_to_sr_sm_config(repository.record.ref, key, value)
    return key


def withdraw_claim(repository: Repository, target: str) -> None:
    """Give up the claim on a merge into `target`, if there is one."""
    key = f"{keys.CLAIM_PREFIX}{target}"
    repository.pool.remove_from_sr_sm_config(repository.record.ref, key)


def activate(repository: Repository, vdi_uuid: str, *, writable: bool) -> None:
    """Note that this host uses the VDI; repeated, it is no change.

    Raises `VdiInUse` when another host has it in a way that excludes this, `Busy` when its chain is
    being merged and that does not end in time.
    """
    mode = "RW" if writable else "RO"
    host = repository.pool.this_host().ref
    record = _activatable(repository, vdi_uuid, writable=writable)
    present = repository.active_hosts(record)
    others = {other: how for other, how in present.items() if other != host}
    if (writable and others) or "RW" in others.values():
        raise VdiInUse(f"{vdi_uuid} is active: {', '.join(map(' '.join, others.items()))}")
    if present.get(host) == mode:
        return
    if host in present:
        raise VdiInUse(f"{vdi_uuid} is active here as {present[host]}; deactivate it first")
    key = keys.host_key(host)
    try:
        repository.pool.add_to_vdi_sm_config(record.ref, key, mode)
    except DuplicateKey as error:
        raise VdiInUse(f"{vdi_uuid} is being activated by another process") from error
    try:
        _look_at_others(repository, vdi_uuid, host, writable=writable)
        _wait_for_claims(repository, vdi_uuid)
    except BaseException:
        repository.pool.remove_from_vdi_sm_config(record.ref, key)
        raise


def deactivate(repository: Repository, vdi_uuid: str) -> None:
    """Note that this host uses the VDI no longer; succeeds if it did not."""
    record = repository.vdis().get(vdi_uuid)
    if record is not None:
        key = keys.host_key(repository.pool.this_host().ref)
        repository.pool.remove_from_vdi_sm_config(record.ref, key)


def _activatable(repository: Repository, vdi_uuid: str, *, writable: bool) -> VdiRecord:
    record = repository.vdi(vdi_uuid)
    check_usable(repository.look("vdi_activate").forest, vdi_uuid)
    if writable and record.read_only:
        raise VdiUnavailable(f"{vdi_uuid} is read-only; activate it so")
    return record


def check_usable(forest: Forest, vdi_uuid: str) -> None:
    """Raise `VdiUnavailable` unless the VDI and its whole chain can be read."""
    if vdi_uuid not in forest:
        raise VdiUnavailable(f"{vdi_uuid}: its image is missing")
    damage = forest.chain_defect(vdi_uuid)
    if damage:
        raise VdiUnavailable(f"{vdi_uuid}: image {damage[0]}: {damage[1]}")
    if forest[vdi_uuid].hidden:
        raise VdiUnavailable(f"{vdi_uuid} is hidden")


def _look_at_others(repository: Repository, vdi_uuid: str, host: str, *, writable: bool) -> None:
    """Two hosts that wrote their keys at once both see the other here, and both step back."""
    present = repository.active_hosts(repository.vdi(vdi_uuid))
    others = [how for other, how in present.items() if other != host]
    if others and (writable or "RW" in others):
        raise VdiInUse(f"{vdi_uuid} became active on another host")


def _wait_for_claims(repository: Repository, vdi_uuid: str) -> None:
    deadline = time.monotonic() + CLAIM_WAIT_SECONDS
    while True:
        repository.settle()
        forest = repository.look("vdi_activate").forest
        chain = {node.uuid for node in forest.chain(vdi_uuid)}
        standing = [claim for claim in claims(repository) if claim.images & chain]
        if not standing:
            return
        if time.monotonic() > deadline:
            raise Busy(f"the chain of {vdi_uuid} is being merged by {standing[0].owner}")
        time.sleep(CLAIM_POLL_SECONDS)
