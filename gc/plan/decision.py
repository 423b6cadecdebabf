"""From an SR to a plan: what the planner must know, gathered; and the images of an action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sm import users
from sm.cowutil.base import CowUtil
from sm.gc.plan import beside
from sm.gc.plan.planner import Action, Delete, Plan, Situation, plan, subject_of
from sm.hosts.serving import ServedElsewhere
from sm.pool.base import VdiRecord
from sm.repository import Repository
from sm.scan import Scan
from sm.tree import Forest
from sm.users import User


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, and the trees that it was made from."""

    plan: Plan
    forest: Forest


def decide(repository: Repository, elsewhere: Sequence[ServedElsewhere] = ()) -> Decision:
    """What should be done now. SR lock held. Changes nothing.

    `elsewhere`: what other hosts say that they serve, whether a host key says so or not.
    """
    records = repository.vdis()
    found = repository.scan_all(records)
    situation = _situation(repository, found, records, elsewhere)
    first = plan(found.forest, situation)
    # Only of what would be done beside users is it asked whether it can be, which reads tables.
    must_wait = beside.moving(repository, found.forest, first.actions, situation)
    if must_wait:
        first = plan(found.forest, replace(situation, moving=must_wait))
    return Decision(first, found.forest)


def _situation(
    repository: Repository,
    found: Scan,
    records: Mapping[str, VdiRecord],
    elsewhere: Sequence[ServedElsewhere],
) -> Situation:
    switches = repository.pool.sr_by_uuid(repository.uuid).other_config
    active: dict[str, tuple[User, ...]] = {}
    told = users.of_disks(repository, found.forest.nodes)
    has_key = {(user.vdi, user.host) for user in told}
    told += [
        User(each.vdi, each.host, each.writable)
        for each in elsewhere
        if (each.vdi, each.host) not in has_key
    ]
    for user in told:
        active[user.vdi] = (*active.get(user.vdi, ()), user)
    kept: dict[str, str] = {}
    for uuid, record in records.items():
        if uuid not in found.forest:
            continue
        reason = _leaf_kept(record.other_config, record.on_boot, record.allow_caching)
        if reason:
            kept[uuid] = reason
    return Situation(
        active=active,
        beside=_merged_beside(repository),
        no_leaf_coalesce=kept,
        held=repository.held(),
        hosts=_names_of_hosts(repository) if active else {},
        collect=switches.get("gc") != "false",
        coalesce=switches.get("coalesce") != "false",
        leaf_coalesce=switches.get("leaf-coalesce") != "false",
    )


def _names_of_hosts(repository: Repository) -> dict[str, str]:
    return {host.ref: host.name_label or host.uuid for host in repository.pool.hosts()}


def _merged_beside(repository: Repository) -> frozenset[str]:
    formats = map(repository.formats.get, repository.formats.names)
    return frozenset(
        each.name for each in formats if isinstance(each, CowUtil) and each.merged_beside
    )


def _leaf_kept(other_config: Mapping[str, str], on_boot: str, allow_caching: bool) -> str | None:
    if other_config.get("leaf-coalesce") == "false":
        return "leaf-coalesce=false is set on the VDI"
    if on_boot == "reset":
        return "the VDI is reset at each boot to what lies below its leaf"
    if allow_caching:
        return "the VDI is cached from its parent"
    return None


def images_of(action: Action) -> frozenset[str]:
    """All images that an action deletes or changes."""
    named = set(action.images) | {subject_of(action)}
    if not isinstance(action, Delete):
        named.add(action.into)
    return frozenset(named)
