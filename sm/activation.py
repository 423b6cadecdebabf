"""Activation: a disk is served on this host by a datapath, and the pool says so.

The host key in the leaf's sm-config comes first and goes last, so no process ever serves a disk of
which nobody knows. In order, under the disk's lock: the mark `activating`; the host key; a second
look at the other hosts. Then, without the lock, because a merge that is about to end may need it:
every claim on the chain gives way. Then, with the lock and without any claim: the datapath, and its
link. See `sm.claims` for why no merge is missed.

A crash leaves the mark, perhaps the host key, perhaps a process: the next call on this host goes on
from there, to the end or back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress

from sm import claims, keys, watching
from sm.datapath import losses
from sm.datapath.base import DatapathFailed, Disk, Endpoint, GrowingDatapath
from sm.datapath.choose import Datapaths
from sm.datapath.links import Links
from sm.errors import (
    Busy,
    DuplicateKey,
    HostUnreachable,
    SmError,
    SrUnavailable,
    VdiInUse,
    VdiUnavailable,
)
from sm.hosts import leaf_switch, naming, serving
from sm.hosts.calls import ask, host_by_uuid
from sm.owner import Owner, has_ended, host_of
from sm.pool.base import VdiRecord
from sm.repository import Repository
from sm.thin.marks import Marks
from sm.tree import Forest
from sm.witness.openers import require_unwritten

log = logging.getLogger(__name__)

OPERATION = "vdi_activate"
CLAIM_WAIT_SECONDS = 20.0
CLAIM_POLL_SECONDS = 0.02
SETTLE_SECONDS = 4.0
"""The wait between two attempts to settle what an ended collector left; each doubles it."""


def activate(repository: Repository, vdi_uuid: str, *, writable: bool) -> Endpoint:
    """Serve the disk on this host; repeated, it is no change.

    Raises `VdiInUse` when another host has it in a way that excludes this, `Busy` when its chain is
    being changed and that does not end in time.
    """
    with _lock(repository, vdi_uuid):
        record = repository.vdi(vdi_uuid)
        kept = repository.active_hosts(record).get(repository.pool.this_host().ref)
        present = _publish(repository, record, writable=writable)
    if present is not None:
        return present
    try:
        return _serve_unclaimed(repository, vdi_uuid, writable=writable)
    except BaseException:
        with _lock(repository, vdi_uuid):
            if _is_marked_here(repository, repository.vdi(vdi_uuid)):
                _give_up(repository, record, kept)
        raise


def _give_up(repository: Repository, record: VdiRecord, kept: str | None) -> None:
    """Undo an activation that failed; a host key that it had found (`kept`) is there again.

    What failed may have done so because of a process that it does not know, and that has the key.
    """
    deactivate(repository, record.uuid)
    if kept is not None and record.uuid in repository.vdis():
        key = keys.host_key(repository.pool.this_host().ref)
        repository.pool.add_to_vdi_sm_config(record.ref, key, kept)


def deactivate(repository: Repository, vdi_uuid: str) -> None:
    """Stop serving the disk on this host; succeeds if it was not served. Ends a commit of it.

    The disk's lock is held.
    """
    stop(repository, vdi_uuid)
    record = repository.vdis().get(vdi_uuid)
    if record is not None:
        _give_back_room(repository, record)
        _clear_mark(repository, record)
        for waits in keys.WAITS:
            repository.pool.remove_from_vdi_sm_config(record.ref, waits)
        key = keys.host_key(repository.pool.this_host().ref)
        if record.sm_config.get(key) == "RW":
            repository.pool.remove_from_vdi_sm_config(record.ref, keys.FILLING)
        repository.pool.remove_from_vdi_sm_config(record.ref, key)


def _give_back_room(repository: Repository, record: VdiRecord) -> None:
    """Tell the SR master that nobody writes to the disk any more; it may be told later as well."""
    host = repository.pool.this_host().ref
    if not repository.store.sized or repository.active_hosts(record).get(host) != "RW":
        return
    try:
        ask(repository, repository.master, "take_back_room", vdi_uuid=record.uuid)
    except SmError as error:
        log.warning("the volume of %s keeps its size: %s", record.uuid, error)


def reset(repository: Repository, vdi_uuid: str, host_ref: str, *, certain: bool) -> None:
    """Take away the host key of a host that does not serve the disk.

    Raises `VdiInUse` when it does, and `HostUnreachable` when it does not answer, unless the caller
    is `certain` that it does not run.
    """
    record = repository.vdi(vdi_uuid)
    try:
        if ask(repository, host_ref, "look", vdi_uuid=vdi_uuid)["served"]:
            raise VdiInUse(f"the host serves {vdi_uuid}; deactivate it there")
    except HostUnreachable:
        if not certain:
            raise
    losses.forget(repository.settings.run / "datapath", vdi_uuid)
    repository.pool.remove_from_vdi_sm_config(record.ref, keys.host_key(host_ref))
    owner = record.sm_config.get(keys.ACTIVATING)
    hosts = {host.uuid: host.ref for host in repository.pool.hosts()}
    if owner is not None and hosts.get(host_of(owner) or "") == host_ref:
        repository.pool.remove_from_vdi_sm_config(record.ref, keys.ACTIVATING)


def serve(repository: Repository, vdi_uuid: str, *, writable: bool) -> Endpoint:
    """Start the datapath on the disk's chain and make its link: the middle of `activate`."""
    disk = Disk(repository.uuid, vdi_uuid)
    forest = repository.look(OPERATION).forest
    check_usable(forest, vdi_uuid)
    settings, nodes = repository.settings, forest.chain(vdi_uuid)
    datapaths, links = Datapaths(settings), Links(settings)
    datapath = datapaths.for_formats({node.format for node in nodes})
    grows = writable and repository.store.grows and isinstance(datapath, GrowingDatapath)
    if writable and repository.store.sized:
        whole = {} if grows else {"whole": "yes"}
        ask(repository, repository.master, "give_room", vdi_uuid=vdi_uuid, **whole)
    chain = repository.images(nodes)
    if writable:
        require_unwritten(chain[0].path)
    path = links.prepare_file(disk) if settings.expose == "fuse" else None
    pace = Marks(settings.thin_spare_bytes).pace if grows else None
    endpoint = datapath.open(disk, chain, read_only=not writable, path=path, pace=pace)
    links.make(disk, endpoint)
    if grows:
        watching.require_watched(settings, disk)
    return endpoint


def stop(repository: Repository, vdi_uuid: str) -> None:
    """End the datapath and its link: the middle of `deactivate`."""
    disk, datapaths = Disk(repository.uuid, vdi_uuid), Datapaths(repository.settings)
    Links(repository.settings).remove(disk)
    datapaths.close(disk)
    watching.disk_note(repository.settings, disk).unlink(missing_ok=True)
    try:
        datapaths.tell_losses(disk)
    except DatapathFailed:
        # Of a storage that is gone nobody can ask more than once.
        with suppress(SrUnavailable):
            repository.store.require_present()
            raise


def check_usable(forest: Forest, vdi_uuid: str) -> None:
    """Raise `VdiUnavailable` unless the VDI and its whole chain can be read."""
    if vdi_uuid not in forest:
        raise VdiUnavailable(f"{vdi_uuid}: its image is missing")
    damage = forest.chain_defect(vdi_uuid)
    if damage:
        raise VdiUnavailable(f"{vdi_uuid}: image {damage[0]}: {damage[1]}")
    if forest[vdi_uuid].hidden:
        raise VdiUnavailable(f"{vdi_uuid} is hidden")


def make_way(repository: Repository, images: Callable[[], Collection[str]], wanted: str) -> None:
    """Have every merge that claims any of `images` give up, and wait until it has.

    `images` is asked anew each time, because a merge changes chains. `wanted` names what for.
    Raises `Busy` when a claim stands beyond the time limit.
    """
    deadline = time.monotonic() + CLAIM_WAIT_SECONDS
    asked: set[str] = set()
    settling = _Patience()
    while True:
        if settling.due(repository.interrupted()):
            repository.settle()
            settling.tried(repository.interrupted())
        claimed = claims.standing(repository)
        wanted_images = images() if claimed else ()
        standing = [claim for claim in claimed if not claim.images.isdisjoint(wanted_images)]
        if not standing:
            return
        for claim in standing:
            if claim.id not in asked:
                asked.add(claim.id)
                owner = host_by_uuid(repository.pool, claim.owner.host)
                ask(repository, owner, "give_way", claim=claim.id)
        if time.monotonic() > deadline:
            raise Busy(f"{wanted} waits for {standing[0].owner}")
        time.sleep(CLAIM_POLL_SECONDS)


class _Patience:
    """When to try again to settle what could not be settled: a host that is gone stays gone.

    Each attempt is a process, and as long as it takes is waited before the next, at least.
    """

    def __init__(self) -> None:
        self._left: frozenset[str] = frozenset()
        self._began = 0.0
        self._not_before = 0.0
        self._pause = SETTLE_SECONDS

    def due(self, interrupted: Collection[str]) -> bool:
        """Whether there is something to settle, and the time for it has come."""
        self._began = time.monotonic()
        return bool(interrupted) and (
            not self._left.issuperset(interrupted) or self._began >= self._not_before
        )

    def tried(self, left: frozenset[str]) -> None:
        """Note what an attempt could not settle."""
        self._left, now = left, time.monotonic()
        self._not_before = now + max(self._pause, now - self._began)
        self._pause *= 2


def chain_of(repository: Repository, vdi_uuid: str) -> Callable[[], set[str]]:
    """For `make_way`: the UUIDs of the images of a disk, read afresh at each call."""
    return lambda: {node.uuid for node in repository.look(OPERATION).forest.chain(vdi_uuid)}


def _lock(repository: Repository, vdi_uuid: str) -> AbstractContextManager[None]:
    return repository.locks.hold("vdi", vdi_uuid, OPERATION)


def _publish(repository: Repository, record: VdiRecord, *, writable: bool) -> Endpoint | None:
    """Write the mark and the host key; returns the endpoint where the disk is served already."""
    mode = "RW" if writable else "RO"
    host, vdi_uuid = repository.pool.this_host().ref, record.uuid
    present = repository.active_hosts(record)
    kept = present.get(host)
    disk = Disk(repository.uuid, vdi_uuid)
    found = Datapaths(repository.settings).settle(disk)
    if found is not None and found[1].paused and naming.entry_of(repository, vdi_uuid) is not None:
        # With the disk's lock held: whoever held its users for the last step of a merge has ended.
        with repository.locked(OPERATION):
            leaf_switch.settle(repository, disk)
        found = Datapaths(repository.settings).find(disk)
    if found is not None:
        if host not in present and serving.publish(repository, disk):
            present = repository.active_hosts(repository.vdi(vdi_uuid))
        datapath, served = found
        if present.get(host) == mode and served.read_only != writable and not served.paused:
            _clear_mark(repository, record)
            Links(repository.settings).make(disk, served.endpoint)
            watching.ensure(repository.settings)
            return served.endpoint
        if host in present:
            raise VdiInUse(f"{vdi_uuid} is active here as {present[host]}; deactivate it first")
        datapath.close(disk)  # the pool was told that this host does not run, and gave it away
    if writable and record.read_only:
        raise VdiUnavailable(f"{vdi_uuid} is read-only; activate it so")
    if writable and record.is_a_snapshot and keys.FILLING not in record.sm_config:
        raise VdiUnavailable(f"{vdi_uuid} is a snapshot; activate it read-only, or a clone of it")
    check_usable(repository.look(OPERATION).forest, vdi_uuid)
    _refuse_beside(repository, record, host, writable=writable)
    _mark(repository, record)
    key = keys.host_key(host)
    try:
        # One that is there was left by a crash: of an activation, or of what served the disk.
        repository.pool.remove_from_vdi_sm_config(record.ref, key)
        repository.pool.add_to_vdi_sm_config(record.ref, key, mode)
        # A detach forgets the attachment before it looks for keys: one side or the other sees it.
        repository.require_attached()
        # Two hosts that wrote their keys at once both see the other here, and both step back.
        _refuse_beside(repository, repository.vdi(vdi_uuid), host, writable=writable)
    except BaseException:
        _give_up(repository, record, kept)
        raise
    return None


def _serve_unclaimed(repository: Repository, vdi_uuid: str, *, writable: bool) -> Endpoint:
    """Start the datapath at a moment when nobody claims an image of the chain."""
    host, chain = repository.pool.this_host().ref, chain_of(repository, vdi_uuid)
    while True:
        make_way(repository, chain, f"activation of {vdi_uuid}")
        with _lock(repository, vdi_uuid):
            record = repository.vdi(vdi_uuid)
            if host not in repository.active_hosts(record):
                raise Busy(f"{vdi_uuid} was deactivated while it was being activated")
            if any(claim.images & chain() for claim in claims.standing(repository)):
                continue  # published since; its owner has seen our key by now, or will ask us
            endpoint = serve(repository, vdi_uuid, writable=writable)
            _clear_mark(repository, record)
            return endpoint


def _refuse_beside(repository: Repository, record: VdiRecord, host: str, *, writable: bool) -> None:
    """Raise `VdiInUse` when another host has the disk in a way that excludes this use."""
    others = {other: how for other, how in repository.active_hosts(record).items() if other != host}
    if not others or (not writable and "RW" not in others.values()):
        return
    names = {known.ref: known.name_label for known in repository.pool.hosts()}
    said = []
    for other, how in others.items():
        try:
            there = ask(repository, other, "look", vdi_uuid=record.uuid)["served"]
            state = "" if there else ", where no process serves it: deactivate it there"
        except HostUnreachable:
            state = ", which does not answer; see 'sm vdi reset'"
        said.append(f"{how} on host {names.get(other, other)}{state}")
    raise VdiInUse(f"{record.uuid} is active {' and '.join(said)}")


def _mark(repository: Repository, record: VdiRecord) -> None:
    _clear_mark(repository, record)
    owner = Owner.this_process(repository.settings.host_uuid, OPERATION).text
    try:
        repository.pool.add_to_vdi_sm_config(record.ref, keys.ACTIVATING, owner)
    except DuplicateKey as error:
        present = repository.vdi(record.uuid).sm_config.get(keys.ACTIVATING)
        raise Busy(_who_activates(record.uuid, present)) from error


def _who_activates(vdi_uuid: str, mark: str | None) -> str:
    """Who holds the mark of an activation, and what to do about it if nobody does."""
    if mark is None or host_of(mark) is not None:
        holder = Owner.parse(mark) if mark else "another process"
        return f"{vdi_uuid} is being activated by {holder}; if that host is off, see 'sm vdi reset'"
    return f"{vdi_uuid} is marked {keys.ACTIVATING}={mark} by another program; see 'sm doctor'"


def _clear_mark(repository: Repository, record: VdiRecord) -> None:
    """Take away the mark if this process made it, or one of this host that has ended."""
    text = record.sm_config.get(keys.ACTIVATING)
    if text is None:
        return
    stale = has_ended(text, repository.settings.host_uuid)
    if stale or _is_marked_here(repository, record):
        repository.pool.remove_from_vdi_sm_config(record.ref, keys.ACTIVATING)


def _is_marked_here(repository: Repository, record: VdiRecord) -> bool:
    """Whether this very process is activating the disk."""
    here = Owner.this_process(repository.settings.host_uuid, OPERATION).text
    return record.sm_config.get(keys.ACTIVATING) == here
