"""Gathering the facts about one SR. Reads the storage and the pool, asks hosts, changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sm import catalogue, claims, holding, journal, keys
from sm.attachment import Attachments
from sm.config import Settings
from sm.cowutil.base import CowUtil
from sm.cowutil.errors import ImageError
from sm.datapath.base import Disk
from sm.datapath.choose import Datapaths
from sm.datapath.links import Links
from sm.datapath.state import Notes
from sm.doctor.carriers import carrier
from sm.doctor.facts import Access, BadNote, Facts, FoundClaim, FoundEntry, Mark, Use
from sm.doctor.owners import Owners
from sm.errors import Busy, HostUnreachable, RecordMissing, SmError, SrUnavailable, StateUnreadable
from sm.gc.copying import resume
from sm.gc.state.ledger import Failure, Ledger
from sm.hosts import serving
from sm.hosts.arguments import locked
from sm.hosts.calls import ask
from sm.pool.base import Pool, SrRecord, VdiRecord
from sm.repository import Repository
from sm.scan import Scan

FOREIGN_MARKS = ("paused", "relinking")
"""Marks that other installations set, and that nothing of ours does."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look under the SR lock saw."""

    scan: Scan
    records: dict[str, VdiRecord]
    records_kept: dict[str, bytes]
    sr: SrRecord
    leftovers: tuple[str, ...]
    names: str | None


def gather(settings: Settings, pool: Pool, ledger: Ledger, sr: SrRecord, *, check: bool) -> Facts:
    """The facts about one SR; `check` has every image examined whole, but those in use to write.

    Hosts are asked after the SR lock is released: what they answer for may need it.
    """
    try:
        attached = Attachments(settings.run / "attached").find(sr.uuid)
    except StateUnreadable as error:
        return Facts(sr, Access.UNREADABLE, problem=error.detail)
    if attached is None:
        host = pool.this_host().ref
        said = any(pbd.host == host and pbd.currently_attached for pbd in pool.pbds(sr.ref))
        return Facts(sr, Access.LOST if said else Access.DETACHED)
    try:
        repository = Repository.open(sr.uuid, settings, pool)
        seen = _look(repository)
    except SrUnavailable as error:
        return Facts(sr, Access.GONE, problem=error.detail)
    owners = Owners(pool, settings.host_uuid)
    found = journal.contents(seen.records_kept)
    entries = _entries(found, owners)
    held = frozenset(
        (
            *holding.by_entries(found.entries),
            *holding.by_unreadable(found.unreadable, seen.scan.forest),
        )
    )
    failures, ledger_problem = _failures(ledger, sr.uuid)
    damage = _check(repository, seen, held) if check else {}
    return Facts(
        seen.sr,
        Access.ATTACHED,
        master=pool.is_sr_master(seen.sr),
        scan=seen.scan,
        records=seen.records,
        held=held,
        entries=entries,
        unreadable=found.unreadable,
        progress=tuple(resume.unreadable(seen.records_kept)),
        notes=_notes(repository, seen),
        ledger=ledger_problem,
        claims=_claims(seen, owners),
        marks=_marks(repository, seen, owners),
        uses=_uses(repository, seen),
        damage=damage,
        limits=_limits(repository),
        leftovers=seen.leftovers,
        dead_links=_dead_links(repository),
        half_started=_half_started(repository),
        keyless=_keyless(repository),
        read_only=repository.store.is_read_only(),
        failures=failures,
        names=seen.names,
    )


def _look(repository: Repository) -> _Seen:
    with repository.locked("doctor"):
        return _Seen(
            repository.scan(),
            repository.vdis(),
            repository.store.records(),
            repository.pool.sr_by_uuid(repository.uuid),
            repository.store.unfinished(),
            _names(repository),
        )


def _names(repository: Repository) -> str | None:
    """What is wrong with the names that the storage remembers."""
    try:
        same = catalogue.is_remembered(repository)
    except (SmError, OSError) as error:
        return error.detail if isinstance(error, SmError) else str(error)
    return None if same else "they are not those of the pool, or damaged"


def _entries(found: journal.Contents, owners: Owners) -> tuple[FoundEntry, ...]:
    return tuple(
        FoundEntry(entry, owners.judge(entry.owner), here=owners.is_here(entry.owner))
        for entry in found.entries
    )


def _failures(ledger: Ledger, sr: str) -> tuple[dict[str, Failure], tuple[Path, str] | None]:
    """What the collector remembers to have failed, or why that cannot be read."""
    try:
        return ledger.failures(sr), None
    except SmError as error:
        return {}, (ledger.path, error.detail)


def _notes(repository: Repository, seen: _Seen) -> tuple[BadNote, ...]:
    """The notes of this SR's disks that cannot be read; each kind of datapath has a folder."""
    found = []
    for folder in sorted((repository.settings.run / "datapath").glob("*/")):
        for vdi, problem in Notes(folder).unreadable().items():
            if vdi in seen.records or vdi in seen.scan.forest:
                found.append(BadNote(vdi, folder, problem, carrier(vdi)))
    return tuple(found)


def _claims(seen: _Seen, owners: Owners) -> tuple[FoundClaim, ...]:
    found = []
    for key, value in seen.sr.sm_config.items():
        if not claims.is_claim(key):
            continue
        merge = key.startswith(keys.CLAIM_PREFIX)
        target = key.removeprefix(keys.CLAIM_PREFIX if merge else keys.CHANGE_PREFIX)
        try:
            owner = owners.judge(claims.parse(key, value).owner.text)
        except ValueError:
            owner = owners.foreign
        found.append(FoundClaim(key, value, target, merge, owner))
    return tuple(found)


def _marks(repository: Repository, seen: _Seen, owners: Owners) -> tuple[Mark, ...]:
    """The marks that are still the same when their owners have been judged."""
    found = []
    for uuid, record in seen.records.items():
        for key in (keys.ACTIVATING, *FOREIGN_MARKS):
            value = record.sm_config.get(key)
            if value is None:
                continue
            owner = owners.judge(value) if key == keys.ACTIVATING else owners.foreign
            if _now(repository, uuid).get(key) == value:
                found.append(Mark(uuid, key, value, owner))
    return tuple(found)


def _now(repository: Repository, uuid: str) -> dict[str, str]:
    """The sm-config of a VDI, read afresh; empty where its record has gone."""
    try:
        return dict(repository.pool.vdi_by_uuid(uuid).sm_config)
    except RecordMissing:
        return {}


def _uses(repository: Repository, seen: _Seen) -> tuple[Use, ...]:
    """The host keys that are still there when their hosts have answered."""
    pool, found = repository.pool, []
    names = {host.ref: host.name_label or host.uuid for host in pool.hosts()}
    here = pool.this_host().ref
    for uuid, record in seen.records.items():
        for host in keys.active_hosts(record.sm_config):
            served, problem = _served(repository, uuid, host) if host in names else (None, "")
            if not served:
                # It may have been deactivated since, or be in the middle of an activation.
                present = _now(repository, uuid)
                if host not in keys.active_hosts(present):
                    continue
            name = names.get(host, host)
            found.append(Use(uuid, host, name, host == here, host in names, served, problem))
    return tuple(found)


def _served(repository: Repository, uuid: str, host: str) -> tuple[bool | None, str]:
    try:
        return bool(ask(repository, host, "look", vdi_uuid=uuid, as_is="yes")["served"]), ""
    except Busy:
        return True, ""  # its lock is held: somebody is at work on it at this moment
    except HostUnreachable as error:
        return None, f"it does not answer: {error.detail}"
    except SmError as error:
        return None, f"it does not tell: {error.detail}"


def _limits(repository: Repository) -> dict[str, int]:
    formats = map(repository.formats.get, repository.formats.names)
    return {each.name: each.max_chain_length for each in formats if isinstance(each, CowUtil)}


def _dead_links(repository: Repository) -> tuple[str, ...]:
    """The link of a disk is made when it is served, and removed before its process ends."""
    linked = Links(repository.settings).of_sr(repository.uuid)
    if not linked:
        return ()
    datapaths = Datapaths(repository.settings)
    return tuple(vdi for vdi in linked if _is_dead(datapaths, Disk(repository.uuid, vdi)))


def _is_dead(datapaths: Datapaths, disk: Disk) -> bool:
    """Whether nothing serves a disk, for certain."""
    try:
        return datapaths.find(disk) is None
    except StateUnreadable:
        return False  # a finding of its own


def _keyless(repository: Repository) -> tuple[str, ...]:
    """A key is there before its process and after it, so that both are looked for in this order."""
    served, found = serving.here(repository), []
    if not served:
        return ()
    datapaths, own = Datapaths(repository.settings), repository.pool.this_host().ref
    for vdi in served:
        present = keys.active_hosts(_now(repository, vdi))
        if own not in present and datapaths.find(Disk(repository.uuid, vdi)) is not None:
            found.append(vdi)
    return tuple(found)


def _half_started(repository: Repository) -> tuple[str, ...]:
    """Of a start under way the lock is held; what nobody has the lock of was left."""
    found, datapaths = [], Datapaths(repository.settings)
    for vdi in {disk.vdi for disk in datapaths.half_started() if disk.sr == repository.uuid}:
        try:
            with locked(repository, {"vdi_uuid": vdi}, "doctor"):
                if vdi in {disk.vdi for disk in datapaths.half_started()}:
                    found.append(vdi)
        except Busy:
            continue
    return tuple(sorted(found))


def _check(repository: Repository, seen: _Seen, held: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """A full check of each readable image that nobody writes to."""
    found: dict[str, tuple[str, ...]] = {}
    for node in seen.scan.forest:
        record = seen.records.get(node.uuid)
        written = record is not None and "RW" in keys.active_hosts(record.sm_config).values()
        if seen.scan.forest.defect(node.uuid) or written or node.uuid in held:
            continue
        try:
            report = repository.formats.get(node.format).check(seen.scan.volumes[node.uuid].path)
            found[node.uuid] = report.corruptions
        except FileNotFoundError:
            continue  # deleted or merged since
        except (ImageError, OSError) as error:
            found[node.uuid] = (str(error),)
    return found
