"""A client whose writes are durable one by one, so that it knows what the disk must hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.datapath.clients import BLOCK, Writer
from tests.support.patience import patient

SECTOR = 512


class DurableWriter(Writer):
    """As `Writer`, but whoever serves it may be killed: then at most its last write is in doubt.

    `doubt` is the range of that write, and `data` without it; each sector of the range may hold
    what it held or what was written.
    """

    def __init__(self, uri: str, data: bytes, seed: int = 0) -> None:
        super().__init__(uri, data, seed)
        self.doubt: tuple[int, int, int] | None = None
        self._turn = threading.Lock()

    @contextmanager
    def still(self) -> Iterator[bytes]:
        """Hold it between two writes; gives what the disk must read as meanwhile."""
        with self._turn:
            yield bytes(self.data)

    def cut_off(self) -> None:
        """Note that the process at the other end is gone."""
        self._stop.set()
        self._thread.join(patient(60))
        self._shell.kill()
        self._shell.communicate()
        assert isinstance(self.problem, AssertionError | OSError | None), self.problem
        self.problem = None

    def check(self, found: bytes) -> None:
        """Compare the disk after the cut, and take over what was in doubt."""
        if self.doubt is not None:
            start, length, byte = self.doubt
            for offset in range(start, start + length, SECTOR):
                if found[offset : offset + SECTOR] == bytes([byte]) * SECTOR:
                    self.data[offset : offset + SECTOR] = found[offset : offset + SECTOR]
            self.doubt = None
        assert found == self.data, f"first difference at {first_difference(found, self.data)}"

    def _round(self) -> None:
        with self._turn:
            self._write_and_look()

    def _write_and_look(self) -> None:
        first = self._random.randrange(self._blocks)
        count = self._random.randint(1, min(4, self._blocks - first))
        byte = self._random.randint(1, 255)
        start, length = first * BLOCK, count * BLOCK
        self.doubt = (start, length, byte)
        self._say(f"write -f -P {byte} {start} {length}", "wrote")
        self.data[start : start + length] = bytes([byte]) * length
        self.doubt = None
        look = self._random.randrange(self._blocks) * BLOCK
        self._say(f"read -P {self.data[look]} {look} {BLOCK}", f"read {BLOCK}/")


def first_difference(one: bytes, other: bytes) -> int:
    """The offset of the first byte that differs."""
    return next(index for index, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
