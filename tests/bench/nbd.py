"""Reads of a VHD chain over NBD, against qemu-storage-daemon on a raw copy of the disk."""

from __future__ import annotations

import random
import socket
import subprocess
from contextlib import closing
from pathlib import Path

from sm.cowutil.base import ImageRef
from sm.cowutil.registry import Formats
from sm.datapath.base import Datapath, Disk, Endpoint
from sm.datapath.qsd.datapath import QsdDatapath
from sm.datapath.vhd_nbd.datapath import VhdNbdDatapath
from sm.nbd import protocol
from sm.process import run as run_tool
from tests.bench.measure import Row, Target, in_turn
from tests.bench.workshop import Workshop
from tests.cowutil.vhd.vhd_support import open_disk

SIZE = 256 << 20
LEVELS = 3
MIB = 1 << 20
SMALL = 4096
COUNT = 50_000
DEPTH = 32


class Load:
    """A client that only counts what comes: reads of one length, `depth` of them under way."""

    def __init__(self, endpoint: Endpoint, disk: Disk) -> None:
        self._peer = socket.socket(socket.AF_UNIX)
        self._peer.connect(str(endpoint.socket))
        self._take(protocol.GREETING.size)
        name = disk.vdi.encode()
        option = protocol.OPTION.pack(protocol.OPTION_MAGIC, protocol.Option.EXPORT_NAME, len(name))
        flags = protocol.HandshakeFlag.FIXED_NEWSTYLE | protocol.HandshakeFlag.NO_ZEROES
        self._peer.sendall(protocol.CLIENT_FLAGS.pack(flags) + option + name)
        size, _ = protocol.EXPORT.unpack(self._take(protocol.EXPORT.size))
        if size != SIZE:
            raise AssertionError(f"a disk of {size} bytes")

    def read(self, offsets: list[int], length: int, depth: int) -> None:
        """Read from each of the offsets; an error of any is an AssertionError."""
        requests = [
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, 0, 0, number, offset, length)
            for number, offset in enumerate(offsets)
        ]
        half = max(1, depth // 2)
        stride = protocol.SIMPLE.size + length
        self._peer.sendall(b"".join(requests[:half]))
        for at in range(0, len(requests), half):
            self._peer.sendall(b"".join(requests[at + half : at + 2 * half]))
            answers = self._take(stride * len(requests[at : at + half]))
            if any(answers[7::stride]):
                raise AssertionError("a read failed")

    def close(self) -> None:
        """Leave."""
        self._peer.sendall(protocol.REQUEST.pack(protocol.REQUEST_MAGIC, 0, 2, 0, 0, 0))
        self._peer.close()

    def _take(self, length: int) -> memoryview:
        if not hasattr(self, "_buffer") or len(self._buffer) < length:
            self._buffer = memoryview(bytearray(length))
        done = 0
        while done < length:
            count = self._peer.recv_into(self._buffer[done:length])
            if count == 0:
                raise AssertionError("the server has gone")
            done += count
        return self._buffer[:length]


def run(workshop: Workshop) -> list[Row]:
    """The same reads of the same bytes, page cache warm."""
    folder = workshop.folder / "nbd"
    folder.mkdir()
    chain, raw = make_chain(folder), folder / "disk.raw"
    dice = random.Random(8)
    scattered = [dice.randrange(SIZE // SMALL) * SMALL for _ in range(COUNT)]
    following = list(range(0, SIZE, MIB)) * 4
    disk = Disk("bench", "22222222-2222-4222-8222-222222222222")
    ours: Datapath = VhdNbdDatapath(folder / "run")
    theirs: Datapath = QsdDatapath(folder / "run")
    try:
        endpoint = ours.open(disk, chain, read_only=False)
        subprocess.run(["nbdcopy", str(endpoint.nbd), str(raw)], check=True)
        other = theirs.open(disk, [ImageRef(raw, "raw")], read_only=False)
        with closing(Load(endpoint, disk)) as mine, closing(Load(other, disk)) as its:
            small = in_turn(
                {
                    "ours": lambda: mine.read(scattered, SMALL, DEPTH),
                    "qsd": lambda: its.read(scattered, SMALL, DEPTH),
                },
                repeat=3,
            )
            large = in_turn(
                {
                    "ours": lambda: mine.read(following, MIB, 4),
                    "qsd": lambda: its.read(following, MIB, 4),
                },
                repeat=3,
            )
    finally:
        ours.close(disk)
        theirs.close(disk)
    per_read = 1000 / COUNT
    per_mib = 1000 / len(following)
    against = "qemu-storage-daemon, raw"
    return [
        Row(
            "nbd",
            f"random 4 KiB read at depth {DEPTH}, chain of {LEVELS}",
            small["ours"] * per_read,
            against,
            small["qsd"] * per_read,
            Target.faster(3),
            unit="us",
        ),
        Row(
            "nbd",
            f"sequential 1 MiB read, chain of {LEVELS}",
            large["ours"] * per_mib,
            against,
            large["qsd"] * per_mib,
            Target.within(2),
            unit="us",
        ),
    ]


def make_chain(folder: Path) -> list[ImageRef]:
    """Three images that hold the disk together, in turns of 64 KiB; leaf first."""
    vhd = Formats(run_tool).cow("vhd")
    chain = [folder / "0.vhd"]
    vhd.create(chain[0], SIZE)
    dice = random.Random(5)
    for level in range(LEVELS):
        if level:
            child = folder / f"{level}.vhd"
            vhd.snapshot(child, ImageRef(chain[0], "vhd"), SIZE)
            chain.insert(0, child)
        with closing(open_disk(chain)) as disk:
            for offset in range(level * 65536, SIZE, LEVELS * 65536):
                disk.pwrite(offset, dice.randbytes(65536))
    return [ImageRef(path, "vhd") for path in chain]
