"""What Prometheus is told of each SR and its collector, made at the moment of each scrape."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sm.config import Settings
from sm.gc.plan.planner import ACTION_NAMES
from sm.gc.state.status import State
from sm.gc.views.measured import Collected, Measured, depths, garbage_bytes, measure
from sm.pool.open import open_pool

Value = tuple[tuple[str, ...], float]
"""Label values after that of the SR, and the figure."""

Values = Callable[[Collected], Iterator[Value]]


class SrMetrics(Collector):
    """Looks at every SR of this host once for each scrape, and never at two at a time."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._one_by_one = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """All families; each has one series for each SR at least, where its figure is known."""
        with self._one_by_one, open_pool(self._settings, None) as pool:
            found = measure(self._settings, pool, self._clock())
        return families(found)


def families(found: Sequence[Measured]) -> Iterator[Metric]:
    """The families for some SRs. Pure."""
    up = GaugeMetricFamily("sm_sr_up", "Whether the SR could be looked at.", labels=("sr", "name"))
    for sr in found:
        up.add_metric((sr.uuid, sr.name), float(sr.space is not None))
    yield up
    yield from _space(found)
    known = [(sr.uuid, sr.collected) for sr in found if sr.collected is not None]
    for name, text, labels, values in _GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=("sr", *labels))
        for uuid, collected in known:
            for also, value in values(collected):
                gauge.add_metric((uuid, *also), value)
        yield gauge
    for name, text, labels, values in _COUNTERS:
        counter = CounterMetricFamily(name, text, labels=("sr", *labels))
        for uuid, collected in known:
            for also, value in values(collected):
                counter.add_metric((uuid, *also), value)
        yield counter


def _space(found: Sequence[Measured]) -> Iterator[Metric]:
    for name, part, text in (
        ("sm_sr_size_bytes", "total", "Size of the storage of the SR, others' share included."),
        ("sm_sr_used_bytes", "used", "Bytes in use on the storage of the SR, by whomever."),
        ("sm_sr_free_bytes", "free", "Bytes that the SR may still take."),
    ):
        gauge = GaugeMetricFamily(name, text, labels=("sr",))
        for sr in found:
            if sr.space is not None:
                gauge.add_metric((sr.uuid,), getattr(sr.space, part))
        yield gauge


def _one(value: Callable[[Collected], float | None]) -> Values:
    """One figure for each SR; none where it is not known."""

    def values(collected: Collected) -> Iterator[Value]:
        figure = value(collected)
        if figure is not None:
            yield (), float(figure)

    return values


def _images(collected: Collected) -> Iterator[Value]:
    forest = collected.forest
    hidden = sum(node.hidden for node in forest)
    yield ("hidden",), float(hidden)
    yield ("visible",), float(len(forest.nodes) - hidden)
    yield ("damaged",), float(sum(forest.defect(node.uuid) is not None for node in forest))


def _chains(collected: Collected) -> Iterator[Value]:
    for depth, number in sorted(depths(collected.forest).items()):
        yield (str(depth),), float(number)


def _debt(collected: Collected) -> float | None:
    return None if collected.costs is None else sum(each.bytes_to_copy for each in collected.costs)


def _reclaimable(collected: Collected) -> float | None:
    return None if collected.costs is None else sum(each.bytes_freed for each in collected.costs)


def _planned(collected: Collected) -> Iterator[Value]:
    counted = Counter(ACTION_NAMES[type(action)] for action in collected.plan.actions)
    for name in ACTION_NAMES.values():
        yield (name,), float(counted[name])


def _states(collected: Collected) -> Iterator[Value]:
    present = State.STOPPED if collected.status is None else collected.status.state
    for state in State:
        yield (state.value,), float(state is present)


def _running_bytes(collected: Collected) -> Iterator[Value]:
    jobs = () if collected.status is None else collected.status.jobs
    yield ("done",), float(sum(job.bytes_done for job in jobs))
    yield ("total",), float(sum(job.bytes_total for job in jobs))


def _waiting(collected: Collected) -> Iterator[Value]:
    for code, number in sorted(Counter(each.code for each in collected.waiting).items()):
        yield (code,), float(number)


def _failing(collected: Collected) -> Iterator[Value]:
    codes = Counter(failure.code for failure in collected.failures.values())
    for code, number in sorted(codes.items()):
        yield (code,), float(number)


def _next_attempt(collected: Collected) -> float | None:
    times = [each.next_attempt for each in collected.waiting if each.next_attempt is not None]
    return min(times, default=None)


_GAUGES: tuple[tuple[str, str, tuple[str, ...], Values], ...] = (
    ("sm_sr_images", "Images by kind.", ("kind",), _images),
    (
        "sm_sr_garbage_bytes",
        "Bytes of images that no disk needs.",
        (),
        _one(lambda it: garbage_bytes(it.forest)),
    ),
    (
        "sm_sr_chain_depth_max",
        "Images in the longest chain of a disk.",
        (),
        _one(lambda it: max(depths(it.forest), default=0)),
    ),
    ("sm_sr_chain_limit", "Images that a chain may have.", (), _one(lambda it: it.limit)),
    ("sm_sr_chains", "Disks by the number of images in their chains.", ("depth",), _chains),
    ("sm_gc_debt_bytes", "Guest bytes to copy for all planned merges.", (), _one(_debt)),
    ("sm_gc_reclaimable_bytes", "Bytes that planned work gives back.", (), _one(_reclaimable)),
    ("sm_gc_planned_actions", "Deletions and merges that can be done.", ("action",), _planned),
    (
        "sm_gc_worker_up",
        "Whether a worker of the collector lives.",
        (),
        _one(lambda it: it.status is not None),
    ),
    ("sm_gc_state", "1 for the state of the collector, 0 for all others.", ("state",), _states),
    (
        "sm_gc_running_jobs",
        "Jobs under way.",
        (),
        _one(lambda it: len(it.status.jobs) if it.status else 0),
    ),
    ("sm_gc_running_bytes", "Bytes of the jobs under way.", ("part",), _running_bytes),
    ("sm_gc_waiting_nodes", "Images not merged or deleted now, by reason.", ("code",), _waiting),
    ("sm_gc_failing_nodes", "Images of which work has failed, by reason.", ("code",), _failing),
    (
        "sm_gc_next_attempt_timestamp_seconds",
        "When failed work is tried again, at the earliest.",
        (),
        _one(_next_attempt),
    ),
    (
        "sm_gc_next_look_timestamp_seconds",
        "When the worker looks again without a kick.",
        (),
        _one(lambda it: it.status.next_look if it.status else None),
    ),
    (
        "sm_gc_speed_bytes_per_second",
        "Bytes copied per second in the last jobs.",
        (),
        _one(lambda it: it.speed),
    ),
)


def _by(*names: str, figure: str, failed: bool = False) -> Values:
    """The sum of one figure of all jobs, by some of what they have in common."""

    def values(collected: Collected) -> Iterator[Value]:
        sums: Counter[tuple[str, ...]] = Counter()
        for total in collected.totals:
            if not failed or total.result == "failed":
                sums[tuple(str(getattr(total, name)) for name in names)] += getattr(total, figure)
        yield from ((labels, float(value)) for labels, value in sorted(sums.items()))

    return values


_COUNTERS: tuple[tuple[str, str, tuple[str, ...], Values], ...] = (
    (
        "sm_gc_jobs",
        "Jobs that have ended.",
        ("action", "result"),
        _by("action", "result", figure="jobs"),
    ),
    (
        "sm_gc_failures",
        "Jobs that have failed, by reason.",
        ("code",),
        _by("code", figure="jobs", failed=True),
    ),
    ("sm_gc_job_seconds", "Time of all jobs.", ("action",), _by("action", figure="seconds")),
    (
        "sm_gc_copied_bytes",
        "Guest bytes copied by all jobs.",
        ("action",),
        _by("action", figure="bytes_copied"),
    ),
    (
        "sm_gc_freed_bytes",
        "Bytes given back by all jobs.",
        ("action",),
        _by("action", figure="bytes_freed"),
    ),
    (
        "sm_gc_guest_pause_seconds",
        "Time for which requests of guests were held.",
        (),
        _by(figure="pause_seconds"),
    ),
)
