"""Each limit of the hostile images can be broken, by a reading that is dear on purpose."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.corpus import corpus
from tests.hostile.cost import counted, grown
from tests.hostile.limits import MEMORY, OF_A_REFUSAL, OF_A_REPORT


@pytest.fixture(scope="module")
def largest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image with the largest L1 table that a reader takes."""
    (case,) = (case for case in corpus() if case.name == "qcow2-l1-largest-two")
    return case.write(tmp_path_factory.mktemp("largest"))


def table_of(image: Path) -> bytes:
    """Its L1 table, read at once."""
    with image.open("rb") as file:
        entries, offset = struct.unpack_from(">IQ", file.read(48), 36)
        file.seek(offset)
        return file.read(8 * entries)


def loop(image: Path) -> int:
    """Look at each entry by itself."""
    found = 0
    for entry in memoryview(table_of(image)).cast("Q"):
        found |= entry
    return found


def loop_in_one_line(image: Path) -> list[int]:
    """The same as an expression."""
    return [entry for entry in memoryview(table_of(image)).cast("Q") if entry]


def read_each(image: Path) -> None:
    """Read some of the entries one by one."""
    with image.open("rb", buffering=0) as file:
        for _ in range(OF_A_REPORT.reads + 1):
            file.read(8)


def read_again(image: Path) -> None:
    """Read all of it again and again."""
    for _ in range(OF_A_REPORT.bytes_read // (32 << 20) + 1):
        table_of(image)


@pytest.mark.parametrize(
    ("slow", "name"),
    [
        (loop, "lines"),
        (loop_in_one_line, "lines"),
        (read_each, "reads"),
        (read_again, "bytes"),
    ],
)
def test_what_is_too_dear_is_seen(slow: Callable[[Path], object], name: str, largest: Path) -> None:
    _, cost = counted(lambda: slow(largest))
    for most in (OF_A_REFUSAL, OF_A_REPORT):
        assert f" {name}, of " in " ".join(cost.beyond(most))


def test_what_is_too_large_is_seen(largest: Path) -> None:
    _, size = grown(lambda: [table_of(largest) for _ in range(3)])
    assert size > MEMORY
    _, size = grown(lambda: table_of(largest))
    assert 32 << 20 <= size < MEMORY


def test_lines_are_counted_in_all_threads() -> None:
    def work() -> None:
        thread = threading.Thread(target=lambda: [number + 1 for number in range(1000)])
        thread.start()
        thread.join()

    _, cost = counted(work)
    assert cost.lines > 1000
