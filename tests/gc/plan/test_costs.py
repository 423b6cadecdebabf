"""What a merge costs, and which image should stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sm.coverage import union
from sm.cowutil.extents import Extents
from sm.gc.plan.costs import cheapest, growth_of, shown, to_copy

UNIT = 64 << 10

images = st.lists(
    st.sets(st.integers(0, 20)).map(
        lambda blocks: Extents.of([(at * UNIT, (at + 1) * UNIT) for at in blocks])
    ),
    min_size=2,
    max_size=6,
)


@given(images)
def test_every_byte_is_shown_by_one_image(held: list[Extents]) -> None:
    assert sum(shown(held)) == union(held).total


@given(images)
def test_the_cheapest_copies_least_and_never_more_than_downwards(held: list[Extents]) -> None:
    costs = [to_copy(held, stays) for stays in range(len(held))]
    best = costs[cheapest(held)]
    assert best == min(costs)
    assert best <= costs[-1]
    if costs[-1] == best:
        assert cheapest(held) == len(held) - 1


@given(images)
def test_what_stays_grows_by_what_it_lacks(held: list[Extents]) -> None:
    for stays in range(len(held)):
        growth = growth_of(held, stays)
        assert growth <= to_copy(held, stays)
        assert growth == union(held).total - held[stays].total


def test_a_small_base_below_a_large_image_goes_up() -> None:
    large = Extents.of([(0, 100 * UNIT)])
    small = Extents.of([(0, UNIT), (200 * UNIT, 201 * UNIT)])
    assert cheapest([large, small]) == 0
    assert to_copy([large, small], 0) == UNIT
    assert to_copy([large, small], 1) == 100 * UNIT
