"""What a scan cannot beat: reading its tables, in Python and in a compiled loop over entries."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

PIECE = 1 << 20
TABLE = 1 << 16
OFFSET = 0x00FFFFFFFFFFFE00
Loop = Callable[[Path, list[tuple[int, int]], int], int]
SOURCE = Path(__file__).with_name("entries.c")


def table_offsets(path: Path) -> npt.NDArray[np.int64]:
    """File offsets of the L2 tables of an image with 64 KiB clusters, from its L1 table."""
    with path.open("rb") as file:
        header = file.read(48)
        file.seek(int.from_bytes(header[40:48], "big"))
        raw = file.read(int.from_bytes(header[36:40], "big") * 8)
    offsets = (np.frombuffer(raw, dtype=">u8") & np.uint64(OFFSET)).astype(np.int64)
    used: npt.NDArray[np.int64] = offsets[offsets != 0]
    return used


def pieces(path: Path) -> list[tuple[int, int]]:
    """(start, length) of reads that cover the L2 tables: neighbours together, up to `PIECE`."""
    found: list[tuple[int, int]] = []
    for offset in table_offsets(path).tolist():
        if found and sum(found[-1]) == offset and found[-1][1] < PIECE:
            found[-1] = (found[-1][0], found[-1][1] + TABLE)
        else:
            found.append((offset, TABLE))
    return found


def read_pieces(path: Path, reads: list[tuple[int, int]]) -> None:
    """Read them into memory that is used again, and look at nothing."""
    buffer = memoryview(bytearray(PIECE))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for start, length in reads:
            os.preadv(descriptor, [buffer[:length]], start)
    finally:
        os.close(descriptor)


def compiled(folder: Path) -> Loop | None:
    """The loop of `entries.c`, or None without a compiler.

    It is called with an image, its pieces and how many tables there are; gives how many entries
    are in use, having made a bitmap of them.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "entries.so"
    flags = ["-O3", "-march=native", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", str(library), str(SOURCE)], check=True)
    function = ctypes.CDLL(str(library)).count_entries
    function.restype = ctypes.c_int64

    def count(path: Path, reads: list[tuple[int, int]], tables: int) -> int:
        flat = np.array(reads, dtype=np.int64)
        bits = np.empty(tables * TABLE // 64, dtype=np.uint8)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            found = function(
                descriptor,
                ctypes.c_void_p(flat.ctypes.data),
                ctypes.c_int64(len(flat)),
                ctypes.c_void_p(bits.ctypes.data),
            )
        finally:
            os.close(descriptor)
        return int(found)

    return count
