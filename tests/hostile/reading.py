"""Every way to read an image, in the order of how much of it they look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from sm.cowutil.base import CheckReport
from sm.cowutil.extents import Kind
from sm.cowutil.registry import Formats

READ_AT_MOST = 256 << 10
"""Guest bytes read of one run."""

RUNS = 50

Reading = Callable[[Formats, str, Path], CheckReport | None]


def read_header(formats: Formats, name: str, path: Path) -> None:
    """What a scan of a storage repository does."""
    formats.get(name).info(path)


def read_map(formats: Formats, name: str, path: Path) -> None:
    """Where the data is."""
    with formats.get(name).open_layer(path) as layer:
        layer.map()


def read_extents(formats: Formats, name: str, path: Path) -> None:
    """What is held."""
    formats.get(name).allocated_extents(path)


def read_size(formats: Formats, name: str, path: Path) -> None:
    """How much is held."""
    formats.get(name).allocated_size(path)


def read_data(formats: Formats, name: str, path: Path) -> None:
    """Compressed clusters, and the first guest bytes of many runs."""
    with formats.get(name).open_layer(path) as layer:
        found = layer.map()
        compressed = found.extents(Kind.COMPRESSED)
        for start, end in [*list(compressed)[:RUNS], *list(found.extents())[:RUNS]]:
            layer.read_into(start, memoryview(bytearray(min(end - start, READ_AT_MOST))))


def check(formats: Formats, name: str, path: Path) -> CheckReport:
    """Everything."""
    return formats.get(name).check(path)


READINGS: Mapping[str, Reading] = {
    "info": read_header,
    "map": read_map,
    "extents": read_extents,
    "size": read_size,
    "data": read_data,
    "check": check,
}
"""By the names that `Stage` uses."""
