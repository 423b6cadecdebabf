"""Which work begins now: properties of the choice, and the order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sm.gc.plan.schedule import (
    AGEING_BYTES,
    URGENT_DEPTH,
    Candidate,
    Kind,
    Running,
    choose,
    next_time,
    order,
)

GIB = 1 << 30


def _copy(number: int, tree: str, **changed: object) -> Candidate:
    images = frozenset({f"{tree}-{number}"})
    whole = images | {tree}
    return Candidate(number, Kind.COPY, images, whole, **changed)  # type: ignore[arg-type]


def _delete(number: int, tree: str, **changed: object) -> Candidate:
    images = frozenset({f"{tree}-{number}"})
    whole = images | {tree}
    return Candidate(number, Kind.DELETE, images, whole, **changed)  # type: ignore[arg-type]


def _running(candidate: Candidate) -> Running:
    return Running(candidate.kind, candidate.images, candidate.tree)


def _numbers(chosen: list[Candidate]) -> list[int]:
    return [each.number for each in chosen]


def test_copies_of_independent_trees_up_to_the_limit() -> None:
    candidates = [_copy(1, "a"), _copy(2, "a"), _copy(3, "b"), _copy(4, "c")]
    assert _numbers(choose(candidates, [], copies=2, now=0)) == [1, 3]
    busy = [_running(_copy(9, "b"))]
    assert _numbers(choose(candidates, busy, copies=2, now=0)) == [1]
    assert choose(candidates, [*busy, _running(_copy(8, "z"))], copies=2, now=0) == []


def test_a_deletion_waits_for_no_copy_and_goes_before_one_in_its_tree() -> None:
    copying = [_running(_copy(9, "a")), _running(_copy(8, "b"))]
    assert _numbers(choose([_delete(1, "a")], copying, copies=2, now=0)) == [1]
    both = [_copy(1, "a"), _delete(2, "a"), _copy(3, "b")]
    assert _numbers(choose(both, [], copies=2, now=0)) == [2, 3]
    assert _numbers(choose([_copy(1, "a")], [_running(_delete(2, "a"))], copies=2, now=0)) == []
    # One that must wait for its time keeps no copy back.
    later = [_copy(1, "a"), _delete(2, "a", not_before=5)]
    assert _numbers(choose(later, [], copies=2, now=0)) == [1]


def test_deep_trees_come_first_then_cheap_ones_and_waiting_makes_cheap() -> None:
    deep = _copy(1, "deep", depth=URGENT_DEPTH, cost=900 * GIB)
    deeper = _copy(2, "deeper", depth=URGENT_DEPTH + 4, cost=900 * GIB)
    small, large = _copy(3, "small", cost=GIB, since=0), _copy(4, "large", cost=1024 * GIB)
    assert _numbers(order([small, large, deep, deeper], 0)) == [2, 1, 3, 4]
    after = 1024 * GIB / AGEING_BYTES
    fresh = _copy(5, "fresh", cost=GIB, since=after)
    assert _numbers(order([fresh, large], after)) == [4, 5]
    assert after < 3 * 3600, "a TiB has its turn within hours"


def test_work_that_failed_waits_for_its_time() -> None:
    candidates = [_copy(1, "a", not_before=50), _copy(2, "b", not_before=20)]
    assert choose(candidates, [], copies=2, now=10) == []
    assert next_time(candidates, 10) == 20
    assert _numbers(choose(candidates, [], copies=2, now=20)) == [2]
    assert next_time(candidates, 60) is None


_names = st.sampled_from("abcd")
_candidates = st.lists(
    st.tuples(st.sampled_from(Kind), _names, st.sets(st.integers(0, 3), min_size=1), _names),
    max_size=8,
)


def _made(number: int, kind: Kind, tree: str, images: set[int]) -> Candidate:
    whole = frozenset(f"{tree}{each}" for each in range(4))
    return Candidate(number, kind, frozenset(f"{tree}{each}" for each in images), whole)


@given(_candidates, _candidates, st.integers(1, 3))
def test_no_two_pieces_of_work_meet(new: list, under_way: list, copies: int) -> None:
    candidates = [_made(n, kind, tree, images) for n, (kind, tree, images, _) in enumerate(new)]
    first = [_made(n, kind, tree, images) for n, (kind, tree, images, _) in enumerate(under_way)]
    running = [_running(each) for each in choose(first, [], copies=copies, now=0)]
    chosen = [_running(each) for each in choose(candidates, running, copies=copies, now=0)]
    every = running + chosen
    assert sum(each.kind is Kind.COPY for each in every) <= copies
    assert sum(each.kind is Kind.DELETE for each in every) <= 1
    for number, one in enumerate(every):
        for other in every[:number]:
            assert one.images.isdisjoint(other.images)
            if Kind.DELETE not in (one.kind, other.kind):
                assert one.tree.isdisjoint(other.tree)
    if not running and candidates:
        assert chosen, "something can always begin"
