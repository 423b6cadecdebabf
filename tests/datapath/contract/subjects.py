"""What the contract needs of each datapath besides the datapath itself: chains, and somebody else's
code that reads them once they are closed."""

from __future__ import annotations

import random
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from sm.cowutil.base import CowUtil, ImageRef
from sm.cowutil.qcow2.util import Qcow2Util
from sm.cowutil.vhd.util import VhdUtil
from sm.datapath.base import Datapath
from sm.datapath.qsd.datapath import QsdDatapath
from sm.datapath.vhd_nbd.datapath import VhdNbdDatapath
from sm.process import run
from tests.cowutil.contract.subjects import qemu_content, qemu_io
from tests.cowutil.vhd.vhd_support import Libvhdi, open_disk
from tests.datapath.clients import BLOCK
from tests.datapath.tapdisk.fixture import Tapdisk, is_free
from tests.support.patience import until

SIZE = 8 << 20
Piece = tuple[int, int, int]
"""Offset, length and the byte that is there over and over."""


class Subject(ABC):
    """A datapath under test, with its images in `folder`. Chains are given uppermost first."""

    util: CowUtil

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def datapath(self, folder: Path | None = None) -> Datapath:
        """As another process of ours has it; with `folder`, another of its kind."""
        return self._made(folder or self.folder / "run")

    @abstractmethod
    def _made(self, folder: Path) -> Datapath:
        """A datapath with its notes below `folder`."""

    def slow_commits(self, slow: bool) -> None:  # noqa: B027 - most need nothing
        """Have commits take longer than a test, where they might end at once."""

    def ref(self, name: str) -> ImageRef:
        """The image called `name`."""
        return ImageRef(self.folder / f"{name}.{self.util.name}", self.util.name)

    def chain(self, *names: str) -> tuple[list[ImageRef], bytearray]:
        """A chain, base first in `names`, each image with data of its own, and what it reads as.

        Each 64 KiB hold one byte over and over, as `clients.Writer` wants it.
        """
        made: list[ImageRef] = []
        model = bytearray(SIZE)
        for number, name in enumerate(names):
            ref = self.ref(name)
            if made:
                self.util.snapshot(ref.path, made[0], SIZE)
            else:
                self.util.create(ref.path, SIZE)
            made.insert(0, ref)
            dice = random.Random(number)
            pieces = [
                (dice.randrange(SIZE // BLOCK - 3) * BLOCK, dice.randint(1, 3) * BLOCK, byte)
                for byte in dice.sample(range(1, 256), 20)
            ]
            self.fill(made, pieces)
            for offset, length, byte in pieces:
                model[offset : offset + length] = bytes([byte]) * length
        return made, model

    def add_leaf(self, chain: Sequence[ImageRef], name: str) -> list[ImageRef]:
        """What a snapshot does to the files: the leaf gets the name `name`, and a child its own."""
        leaf, base = chain[0], self.ref(name)
        base.path.hardlink_to(leaf.path)
        fresh = self.folder / "fresh"
        self.util.snapshot(fresh, base, self.util.info(base.path).virtual_size)
        fresh.replace(leaf.path)
        return [leaf, base, *chain[1:]]

    def take_name(self, chain: Sequence[ImageRef], base: int) -> list[ImageRef]:
        """Let an image that holds everything take the leaf's name; what was between is deleted."""
        chain[base].path.replace(chain[0].path)
        for each in chain[1:base]:
            each.path.unlink()
        return [chain[0], *chain[base + 1 :]]

    def merge_at_rest(self, chain: Sequence[ImageRef]) -> list[ImageRef]:
        """Merge the image below the leaf into the next, with nobody using them; relink; delete."""
        left = [chain[0], *chain[2:]]
        self.util.coalesce(chain[1:], 1)
        self.util.set_parent(chain[0].path, chain[2])
        chain[1].path.unlink()
        return left

    @abstractmethod
    def fill(self, chain: Sequence[ImageRef], pieces: Sequence[Piece]) -> None:
        """Write to a chain at rest."""

    @abstractmethod
    def content(self, chain: Sequence[ImageRef]) -> bytes:
        """The whole disk, read by a stranger."""

    @abstractmethod
    def merge_beside(self, chain: Sequence[ImageRef]) -> list[ImageRef]:
        """What others may do with the parents of a chain that is served: fewer of them after it.

        Neither the leaf is relinked nor the files that are no longer needed deleted.
        """

    def check(self, chain: Sequence[ImageRef]) -> None:
        """Every image is sound."""
        for each in chain:
            report = self.util.check(each.path)
            assert not report.corruptions, report


class Qsd(Subject):
    """qemu-storage-daemon on QCOW2."""

    util = Qcow2Util(run)

    def _made(self, folder: Path) -> Datapath:
        return QsdDatapath(folder)

    def fill(self, chain: Sequence[ImageRef], pieces: Sequence[Piece]) -> None:
        qemu_io(chain, *(f"write -P {byte} {offset} {length}" for offset, length, byte in pieces))

    def content(self, chain: Sequence[ImageRef]) -> bytes:
        return qemu_content(chain)

    def merge_beside(self, chain: Sequence[ImageRef]) -> list[ImageRef]:
        """The daemon keeps others from writing to parents, so they are copied together."""
        whole = self.ref(f"whole-{chain[1].path.stem}")
        subprocess.run(
            ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", chain[1].path, whole.path],
            check=True,
        )
        return [chain[0], whole]

    def check(self, chain: Sequence[ImageRef]) -> None:
        super().check(chain)
        for each in chain:
            # Leaked clusters (3) are what a kill may leave.
            found = subprocess.run(
                ["qemu-img", "check", "-q", "-f", "qcow2", each.path], check=False
            )
            assert found.returncode in {0, 3}


class VhdNbd(Subject):
    """Our server on VHD."""

    util = VhdUtil(run)

    def _made(self, folder: Path) -> Datapath:
        return VhdNbdDatapath(folder)

    def fill(self, chain: Sequence[ImageRef], pieces: Sequence[Piece]) -> None:
        with closing(open_disk([each.path for each in chain])) as disk:
            for offset, length, byte in pieces:
                disk.pwrite(offset, bytes([byte]) * length)

    def content(self, chain: Sequence[ImageRef]) -> bytes:
        return Libvhdi().content([each.path for each in chain])

    def merge_beside(self, chain: Sequence[ImageRef]) -> list[ImageRef]:
        self.util.coalesce(chain[1:], 1)
        return [chain[0], *chain[2:]]


class TapdiskQcow2(Qsd):
    """The double of tapdisk on QCOW2."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._tapdisk = Tapdisk(folder)

    def _made(self, folder: Path) -> Datapath:
        return self._tapdisk.datapath(folder)

    def slow_commits(self, slow: bool) -> None:
        self._tapdisk.misbehave(speed=(1 << 16) if slow else 0)

    def content(self, chain: Sequence[ImageRef]) -> bytes:
        """What holds the data ends after the double, if that was killed."""
        until(lambda: all(map(is_free, chain)))
        return super().content(chain)


class TapdiskVhd(VhdNbd):
    """The double of tapdisk on VHD."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._tapdisk = Tapdisk(folder)

    def _made(self, folder: Path) -> Datapath:
        return self._tapdisk.datapath(folder)

    def content(self, chain: Sequence[ImageRef]) -> bytes:
        """Of a leaf whose tapdisk was killed, libvhdi does not find the footer."""
        self.util.repair(chain[0].path)
        return super().content(chain)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "qsd-qcow2": Qsd,
    "vhd_nbd-vhd": VhdNbd,
    "tapdisk-qcow2": TapdiskQcow2,
    "tapdisk-vhd": TapdiskVhd,
}
LOCKING = [name for name in SUBJECTS if name != "tapdisk-vhd"]
"""Those that keep a leaf that is served from every other writer."""

COMMITTING = ["qsd-qcow2", "tapdisk-qcow2"]
TAKING_LEAVES = ["qsd-qcow2"]
"""Those where a new leaf may come during a commit; the others would end it, and refuse the leaf."""

MIRRORING = ["qsd-qcow2"]
