"""One look at each SR of this host, for whoever exports figures. Sizes in bytes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sm.attachment import Attachments
from sm.config import Settings
from sm.cowutil.base import CowUtil
from sm.cowutil.errors import ImageError
from sm.errors import SmError
from sm.gc.collector import Collector
from sm.gc.plan.costs import Cost, cost
from sm.gc.plan.planner import Plan
from sm.gc.state.ledger import Failure, Ledger, Total, doing_without
from sm.gc.state.status import Delayed, Status
from sm.gc.views.overview import delayed, living
from sm.pool.base import Pool, SrRecord
from sm.repository import Repository
from sm.tree import Forest
from sm.volumes.base import Space

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collected:
    """What the host that collects an SR knows of it.

    `costs` are those of the plan's actions; None when an image changed while its tables were read.
    `limit`: the longest chain that a snapshot may be taken of; `speed`: bytes per second, None
    before any job.
    """

    forest: Forest
    plan: Plan
    costs: tuple[Cost, ...] | None
    waiting: tuple[Delayed, ...]
    status: Status | None
    failures: Mapping[str, Failure]
    totals: Sequence[Total]
    speed: float | None
    limit: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One SR. `space` is None where its storage could not be looked at, and then nothing is known.

    `collected` is None where another host collects it.
    """

    uuid: str
    name: str
    space: Space | None = None
    collected: Collected | None = None


def measure(settings: Settings, pool: Pool, now: float) -> list[Measured]:
    """Every SR that is, or should be, attached here; `now` in seconds since 1970."""
    host = pool.this_host().ref
    attached = {each.sr_uuid for each in Attachments(settings.run / "attached").all()}
    found = []
    for sr in pool.srs():
        said = any(pbd.host == host and pbd.currently_attached for pbd in pool.pbds(sr.ref))
        if said or sr.uuid in attached:
            found.append(_measure(settings, pool, sr, now))
    return found


def _measure(settings: Settings, pool: Pool, sr: SrRecord, now: float) -> Measured:
    try:
        repository = Repository.open(sr.uuid, settings, pool)
        space = repository.store.space()
        collected = _collected(repository, now) if pool.is_sr_master(sr) else None
    except (SmError, ImageError, OSError) as error:
        log.warning("SR %s cannot be measured: %s", sr.uuid, error)
        return Measured(sr.uuid, sr.name_label)
    return Measured(sr.uuid, sr.name_label, space, collected)


def _collected(repository: Repository, now: float) -> Collected:
    ledger = Ledger(repository.settings.ledger)
    found = Collector(repository).look()
    status = living(repository)
    failures: dict[str, Failure] = {}
    totals: list[Total] = []
    speed: float | None = None
    with doing_without():
        failures = ledger.failures(repository.uuid)
        totals, speed = ledger.totals(repository.uuid), ledger.speed(repository.uuid)
    formats = map(repository.formats.get, repository.formats.names)
    return Collected(
        forest=found.forest,
        plan=found.plan,
        costs=_costs(repository, found.forest, found.plan),
        waiting=delayed(found.plan, failures, now) if status is None else status.waiting,
        status=status,
        failures=failures,
        totals=totals,
        speed=speed,
        limit=min(each.max_chain_length for each in formats if isinstance(each, CowUtil)),
    )


def _costs(repository: Repository, forest: Forest, plan: Plan) -> tuple[Cost, ...] | None:
    try:
        return tuple(cost(repository, forest, action) for action in plan.actions)
    except (ImageError, OSError) as error:
        log.info("the costs of SR %s are not known now: %s", repository.uuid, error)
        return None


def garbage_bytes(forest: Forest) -> int:
    """What hidden images hold that no visible image, and none that cannot be read, sits on."""
    return sum(
        node.used
        for node in forest
        if node.hidden and all(above.hidden for above in forest.subtree(node.uuid))
    )


def depths(forest: Forest) -> Counter[int]:
    """How many visible images have a chain of each length."""
    return Counter(forest.depth(node.uuid) for node in forest if not node.hidden)
