"""Reading a disk through a chain of images, whatever their formats.

Each byte comes from the uppermost image that holds it. An image that is smaller than the one above
it reads as zero beyond its end, and hides there what its own parents hold: qemu does the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sm.cowutil.base import Layer
from sm.cowutil.extents import Extents, Kind


class ChainReader:
    """The disk of `virtual_size` bytes seen through `layers`, uppermost first.

    The maps of all layers are read once, here. The layers stay open and belong to the caller.
    """

    def __init__(self, layers: Sequence[Layer], virtual_size: int) -> None:
        self.virtual_size = virtual_size
        self._layers = layers
        self._maps = [layer.map() for layer in layers]
        self._visible: list[Extents] = []
        left = Extents.of([(0, virtual_size)])
        for layer, found in zip(layers, self._maps, strict=True):
            left = left.clip(0, layer.virtual_size)
            held = found.extents()
            self._visible.append(held.intersect(left))
            left = left.minus(held)
        self._starts = np.concatenate([shown.starts for shown in self._visible])
        self._ends = np.concatenate([shown.ends for shown in self._visible])
        self._owners = np.repeat(np.arange(len(layers)), [len(shown) for shown in self._visible])
        order = np.argsort(self._starts, kind="stable")
        self._starts, self._ends = self._starts[order], self._ends[order]
        self._owners = self._owners[order]

    def extents(self, *kinds: Kind) -> Extents:
        """The bytes of the disk that some layer gives, or only those given as one of `kinds`.

        All other bytes read as zero.
        """
        given = Extents.of(())
        for shown, found in zip(self._visible, self._maps, strict=True):
            given = given.union(shown.intersect(found.extents(*kinds)) if kinds else shown)
        return given

    def pread(self, offset: int, length: int) -> bytes:
        """The `length` bytes of the disk from `offset`; ValueError beyond its end."""
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the disk from `offset`; ValueError beyond its end."""
        end = offset + len(buffer)
        if not 0 <= offset <= end <= self.virtual_size:
            raise ValueError(f"bytes {offset} to {end} are not in a disk of {self.virtual_size}")
        first = int(np.searchsorted(self._ends, offset, side="right"))
        last = int(np.searchsorted(self._starts, end, side="left"))
        pieces = zip(
            self._starts[first:last].tolist(),
            self._ends[first:last].tolist(),
            self._owners[first:last].tolist(),
            strict=True,
        )
        position = offset
        for piece_start, piece_end, owner in pieces:
            start, stop = max(piece_start, offset), min(piece_end, end)
            _zero(buffer[position - offset : start - offset])
            self._layers[owner].read_into(start, buffer[start - offset : stop - offset])
            position = stop
        _zero(buffer[position - offset :])


def _zero(buffer: memoryview) -> None:
    if len(buffer):
        buffer[:] = bytes(len(buffer))
