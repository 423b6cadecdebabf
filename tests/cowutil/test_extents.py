"""The set algebra of extents against plain Python sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sm.cowutil.extents import BITS_AT_ONCE, ExtentMap, Extents, Kind

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


def members(pairs: list[tuple[int, int]]) -> set[int]:
    return {byte for start, end in pairs for byte in range(start, end)}


def held(extents: Extents) -> set[int]:
    return members(list(extents))


def assert_normal(extents: Extents) -> None:
    flat = [edge for pair in extents for edge in pair]
    assert flat == sorted(set(flat))


@given(ranges)
def test_building_sorts_and_merges(pairs: list[tuple[int, int]]) -> None:
    extents = Extents.of(pairs)
    assert_normal(extents)
    assert held(extents) == members(pairs)
    assert extents.total == len(members(pairs))
    assert extents == Extents.of(reversed(pairs))
    assert hash(extents) == hash(Extents.of(reversed(pairs)))


@given(ranges, ranges)
def test_the_algebra_is_that_of_sets(
    left: list[tuple[int, int]], right: list[tuple[int, int]]
) -> None:
    one, two = Extents.of(left), Extents.of(right)
    for found, expected in (
        (one.union(two), held(one) | held(two)),
        (one.intersect(two), held(one) & held(two)),
        (one.minus(two), held(one) - held(two)),
    ):
        assert_normal(found)
        assert held(found) == expected
    assert one.covers(two) == (held(one) >= held(two))


@given(ranges, st.integers(0, 60), st.integers(0, 60))
def test_clip_keeps_what_is_inside(pairs: list[tuple[int, int]], start: int, end: int) -> None:
    clipped = Extents.of(pairs).clip(start, end)
    assert_normal(clipped)
    assert held(clipped) == members(pairs) & set(range(start, end))


@given(ranges, st.integers(1, 16))
def test_align_gives_whole_blocks(pairs: list[tuple[int, int]], unit: int) -> None:
    aligned = Extents.of(pairs).align(unit)
    blocks = {byte // unit for byte in members(pairs)}
    assert_normal(aligned)
    assert held(aligned) == {b * unit + i for b in blocks for i in range(unit)}


@given(ranges, st.integers(1, 16), st.integers(1, 70))
def test_bitmaps(pairs: list[tuple[int, int]], unit: int, size: int) -> None:
    bits = Extents.of(pairs).to_bitmap(unit, size)
    inside = {byte // unit for byte in members(pairs) if byte < size}
    assert len(bits) == -(-size // unit)
    assert set(np.flatnonzero(bits).tolist()) == inside
    back = Extents.from_bitmap(bits, unit)
    assert_normal(back)
    assert back == Extents.of((b * unit, (b + 1) * unit) for b in inside)


def test_offsets_beyond_32_bits() -> None:
    big = 1 << 60
    extents = Extents.of([(big, big + 10), (0, 1)])
    assert extents.total == 11
    assert extents.clip(big + 5, big + 100) == Extents.of([(big + 5, big + 10)])


def test_equality_with_something_else_is_false() -> None:
    assert Extents.of([]) != [()]
    assert Extents.of([(0, 5)]) != Extents.of([(0, 6)])


def test_a_map_gives_extents_by_kind() -> None:
    found = ExtentMap(
        np.array([0, 10, 20], dtype=np.int64),
        np.array([10, 10, 5], dtype=np.int64),
        np.array([Kind.DATA, Kind.ZERO, Kind.COMPRESSED], dtype=np.uint8),
        np.array([100, -1, 300], dtype=np.int64),
    )
    assert found.extents() == Extents.of([(0, 25)])
    assert found.extents(Kind.ZERO) == Extents.of([(10, 20)])
    assert found.extents(Kind.DATA, Kind.COMPRESSED) == Extents.of([(0, 10), (20, 25)])


@given(st.lists(st.booleans(), max_size=80), st.integers(1, 16), st.data())
def test_bits_stand_for_units(bits: list[bool], unit: int, data: st.DataObject) -> None:
    size = len(bits) * unit - (data.draw(st.integers(0, unit - 1)) if bits else 0)
    found = Extents.from_bits(np.packbits(np.array(bits, dtype=np.bool_)), unit, size)
    assert_normal(found)
    assert held(found) == {byte for byte in range(size) if bits[byte // unit]}


def test_bits_of_more_than_is_looked_at_at_once() -> None:
    count = 2 * BITS_AT_ONCE + 13
    runs = [(0, 3), (BITS_AT_ONCE - 5, BITS_AT_ONCE + 5), (2 * BITS_AT_ONCE, count)]
    bits = np.zeros(count, dtype=np.bool_)
    for start, end in runs:
        bits[start:end] = True
    assert list(Extents.from_bits(np.packbits(bits), 1, count)) == runs
    assert list(Extents.from_bits(np.packbits(~bits), 1, count)) == [
        (3, BITS_AT_ONCE - 5),
        (BITS_AT_ONCE + 5, 2 * BITS_AT_ONCE),
    ]
