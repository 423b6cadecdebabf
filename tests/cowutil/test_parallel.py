"""Work in threads gives what work in one piece gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sm.cowutil import parallel
from sm.cowutil.parallel import each, parts
from sm.cowutil.qcow2 import refcounts, tables
from sm.cowutil.qcow2.layer import Qcow2Layer
from sm.cowutil.qcow2.usage import read_usage
from tests.cowutil.qcow2.synthetic import synthesize

CLUSTER = 64 << 10


def test_parts_cover_everything_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    for count in (0, 1, 7, 8, 9, 1000):
        found = parts(count, 4)
        assert [number for first, end in found for number in range(first, end)] == [*range(count)]
        assert len(found) == (1 if count < 8 else parallel.MOST)


def test_results_are_in_order_and_the_first_failure_is_raised() -> None:
    assert each(lambda part: part, [(0, 1), (1, 2), (2, 3)]) == [(0, 1), (1, 2), (2, 3)]

    def fail(part: tuple[int, int]) -> None:
        if part[0]:
            raise ValueError(part[0])

    with pytest.raises(ValueError, match="1"):
        each(fail, [(0, 1), (1, 2), (2, 3)])


@pytest.mark.parametrize("shuffle", [None, 3])
def test_an_image_scanned_in_parts(
    shuffle: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables lie on both sides of the cut: full ones, mixed ones, and a cut in the last."""
    entries = CLUSTER // 8
    clusters = 9 * entries - 100
    dice = np.random.default_rng(1)
    chosen = np.ones(clusters, dtype=np.bool_)
    chosen[entries : 2 * entries] = dice.random(entries) < 0.5
    chosen[3 * entries : 4 * entries] = False
    chosen[7 * entries :] = dice.random(clusters - 7 * entries) < 0.5
    path = tmp_path / "image.qcow2"
    synthesize(path, clusters * CLUSTER, np.flatnonzero(chosen), shuffle=shuffle)

    def scan() -> tuple[object, ...]:
        with Qcow2Layer(path) as layer:
            usage, found = read_usage(path), layer.map()
            columns = (found.start, found.length, found.kind, found.offset)
            told = [column.tolist() for column in columns]
            return layer.held_size(), layer.bitmap().tolist(), told, usage.physical, usage.used_size

    whole = scan()
    assert whole[0] == int(chosen.sum()) * CLUSTER
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda pid: {0, 1})
    for module in (tables, refcounts):
        monkeypatch.setattr(module, "SMALLEST_PART", CLUSTER)
    monkeypatch.setattr(tables, "BATCH_BYTES", CLUSTER)
    assert scan() == whole
