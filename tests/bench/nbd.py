"""Reads of a VHD chain over NBD, against others on a raw copy of the disk.

They are qemu-storage-daemon, and nbdkit with a plugin in Python.
"""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from sm.cowutil.base import ImageRef
from sm.cowutil.registry import Formats
from sm.datapath.base import Datapath, Disk
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

    def __init__(self, path: Path | None, export: str) -> None:
        self._peer = socket.socket(socket.AF_UNIX)
        self._peer.connect(str(path))
        self._take(protocol.GREETING.size)
        name = export.encode()
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
        with ExitStack() as stack:
            third = stack.enter_context(nbdkit(folder, raw))
            loads = {
                "ours": stack.enter_context(closing(Load(endpoint.socket, disk.vdi))),
                "qsd": stack.enter_context(closing(Load(other.socket, disk.vdi))),
                "nbdkit": stack.enter_context(closing(Load(third, ""))),
            }
            small = in_turn(
                {name: partial(load.read, scattered, SMALL, DEPTH) for name, load in loads.items()},
                repeat=3,
            )
            large = in_turn(
                {name: partial(load.read, following, MIB, 4) for name, load in loads.items()},
                repeat=3,
            )
    finally:
        ours.close(disk)
        theirs.close(disk)
    per_read = 1000 / COUNT
    per_mib = 1000 / len(following)
    peers = {"qsd": "qemu-storage-daemon, raw", "nbdkit": "nbdkit's Python plugin, raw"}
    random_reads = f"random 4 KiB read at depth {DEPTH}, chain of {LEVELS}"
    rows = []
    for peer, against in peers.items():
        mine, its = small["ours"] * per_read, small[peer] * per_read
        rows.append(Row("nbd", random_reads, mine, against, its, Target.faster(3), unit="us"))
    for peer, against in peers.items():
        mine, its = large["ours"] * per_mib, large[peer] * per_mib
        what = f"sequential 1 MiB read, chain of {LEVELS}"
        rows.append(Row("nbd", what, mine, against, its, Target.within(2), unit="us"))
    return rows


@contextmanager
def nbdkit(folder: Path, raw: Path) -> Iterator[Path]:
    """Serve a raw file with nbdkit and a plugin in Python; gives the socket."""
    path = folder / "nbdkit.socket"
    plugin = Path(__file__).with_name("nbdkit_plugin.py")
    server = subprocess.Popen(
        ["nbdkit", "-f", "-U", str(path), "python", str(plugin), f"file={raw}"]
    )
    try:
        while not path.exists():
            if server.poll() is not None:
                raise AssertionError("nbdkit ended")
            time.sleep(0.01)
        yield path
    finally:
        server.terminate()
        server.wait()


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
