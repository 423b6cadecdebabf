"""The images that the benches look at, made when first wanted, in one temporary folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.cowutil.qcow2.synthetic import synthesize

GIB = 1 << 30
TIB = 1 << 40
CLUSTER_BITS = 16

Clusters = npt.NDArray[np.int64]


class Workshop:
    """A folder of images, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def image(self, pattern: str, size: int = 2 * TIB) -> Path:
        """A QCOW2 image of 64 KiB clusters with real metadata; its data are holes in the file."""
        path = self.folder / f"{pattern}-{size >> 30}.qcow2"
        if not path.exists():
            guest = PATTERNS[pattern](size >> CLUSTER_BITS)
            seed = 3 if pattern == "shuffled" else None
            synthesize(path, size, guest, cluster_bits=CLUSTER_BITS, shuffle=seed)
        return path

    def small_images(self, count: int) -> list[Path]:
        """Images of one header cluster and nothing but holes behind it."""
        template = self.folder / "template.qcow2"
        synthesize(template, GIB, np.arange(4, dtype=np.int64))
        header, size = template.read_bytes()[:4096], template.stat().st_size
        folder = self.folder / "small"
        folder.mkdir()
        paths = [folder / f"{number}.qcow2" for number in range(count)]
        for path in paths:
            with path.open("wb") as file:
                file.write(header)
                file.truncate(size)
        return paths


def _full(count: int) -> Clusters:
    return np.arange(count, dtype=np.int64)


def _second(count: int) -> Clusters:
    return np.arange(0, count, 2, dtype=np.int64)


def _half(count: int) -> Clusters:
    return np.flatnonzero(np.random.default_rng(1).random(count) < 0.5).astype(np.int64)


def _spread(count: int) -> Clusters:
    """Every table exists, one in 16 clusters, in runs of 256."""
    bases = np.arange(0, count, 4096, dtype=np.int64)
    return (bases[:, None] + np.arange(256)).ravel()


PATTERNS = {
    "full": _full,
    "shuffled": _full,
    "second": _second,
    "half": _half,
    "spread": _spread,
}
