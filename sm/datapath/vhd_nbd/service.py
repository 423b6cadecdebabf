"""One served disk within its process: the NBD server, and the chain behind it with its leaf locked.

A chain is replaced while the clients wait. Order: everything written is made durable; the new
parents are opened and looked at; the leaf is relinked where it names another parent; it is opened
anew. A crash leaves the leaf with the old or the new link, in one atomic step, and the disk reads
the same through either.

In a pause the clients wait for longer: no image is open, and others may do with them what they
like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageError
from sm.cowutil.vhd.block_file import Access, ImageFile, nobody, open_file
from sm.cowutil.vhd.util import VhdUtil
from sm.datapath.vhd_nbd.disk import ChainDisk
from sm.datapath.vhd_nbd.layers import open_layers
from sm.nbd.server import NbdServer
from sm.nbd.traffic import Traffic
from sm.process import run

PAUSE_SECONDS = 20.0
"""For the requests under way; the largest one zeroes 4 GiB."""


class Refused(Exception):
    """The request cannot be carried out; all is as it was before."""


class Service:
    """Serves a chain on the socket `nbd` as `export`.

    `grows`: the volume of the leaf does, and writes wait for it. `lost` is told when something that
    was written to a leaf may be lost; writes and flushes fail from then on. `ImageError` or OSError
    where the chain cannot be opened.
    """

    def __init__(
        self,
        chain: Sequence[ImageRef],
        nbd: Path,
        export: str,
        *,
        read_only: bool,
        grows: bool = False,
        lost: Callable[[str], None] = nobody,
    ) -> None:
        self._lost = lost
        self._disk = _open(tuple(chain), self._locked(chain, read_only=read_only), relink=False)
        self._server = NbdServer(export, self._disk, grows=grows)
        self._server.listen(nbd)
        self._changing = Lock()
        self._paused = False
        self._stopped = False

    def start(self) -> None:
        """Answer clients."""
        self._server.start()

    @property
    def chain(self) -> tuple[ImageRef, ...]:
        """What is served, uppermost first."""
        return self._disk.chain

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return self._server.clients

    @property
    def traffic(self) -> Traffic:
        """What the clients moved so far."""
        return self._server.traffic

    @property
    def waiting(self) -> int:
        """How many clients have a write that waits for room in the volume of the leaf."""
        return self._server.waiting

    def level(self) -> tuple[int, int] | None:
        """How many bytes the leaf takes of its volume, and its size; None while none is open."""
        with self._changing:
            return None if self._paused or self._stopped else self._disk.level()

    @property
    def paused(self) -> bool:
        """Whether the clients wait, and nothing is open."""
        return self._paused

    def pause(self, seconds: float | None = None) -> None:
        """Make everything durable, close all files and give up the lock; the clients wait.

        Repeated, no change. OSError, and no pause, when the requests under way do not end within
        `seconds` (by default `PAUSE_SECONDS`) or cannot be made durable.
        """
        with self._changing:
            self._check_serving()
            if self._paused:
                return
            self._server.pause(PAUSE_SECONDS if seconds is None else seconds)
            try:
                self._disk.flush()
            except OSError:
                self._server.resume()
                raise
            self._disk.close()
            self._paused = True

    def resume(self, chain: Sequence[ImageRef]) -> None:
        """Open a chain of the same size and let the clients go on; no change if not paused.

        Raises `Refused`, `ImageError` or OSError; still paused then.
        """
        with self._changing:
            self._check_serving()
            if not self._paused:
                return
            leaf = self._locked(chain, read_only=self._disk.read_only)
            new = _open(tuple(chain), leaf, relink=False)
            self._require_same_size(new)
            self._disk = self._server.export = new
            self._paused = False
            self._server.resume()

    def refresh(self, chain: Sequence[ImageRef]) -> None:
        """Go over to another chain of the same size, which reads the same.

        Raises `Refused`, `ImageError` or OSError; the old chain is served on then.
        """
        with self._changing:
            self._check_serving()
            if self._paused:
                raise Refused("the disk is paused; resume it with the chain")
            self._server.pause(PAUSE_SECONDS)
            try:
                self._disk.flush()
                self._replace(tuple(chain))
            finally:
                self._server.resume()

    def stop(self) -> None:
        """Finish the requests under way, make everything durable, and release all.

        OSError where something could not be made durable. Nothing is served afterwards.
        """
        with self._changing:
            if self._stopped:
                return
            self._stopped = True
            if self._paused:
                self._server.stop()
                return
            try:
                # Whoever waits at the gate from now on waits for the end of the process.
                self._server.pause(PAUSE_SECONDS)
            except TimeoutError:
                # Requests are under way on the files, which therefore stay open.
                self._server.stop()
                self._disk.flush()
                raise
            self._server.stop()
            try:
                self._disk.flush()
            finally:
                self._disk.close()

    def _check_serving(self) -> None:
        if self._stopped:
            raise Refused("the disk is being closed")

    def _replace(self, chain: tuple[ImageRef, ...]) -> None:
        old, path = self._disk, chain[0].path
        leaf, same_leaf = None, False
        if old.leaf is not None:
            # The leaf's lock is kept through all of it, or the new leaf is locked before.
            same_leaf = _identity(path) == old.leaf.identity
            leaf = old.leaf.again(path) if same_leaf else self._opened(path)
        try:
            new = _open(chain, leaf, relink=same_leaf)
            self._require_same_size(new)
        except (ImageError, OSError, Refused):
            old.reload()
            raise
        self._disk = self._server.export = new
        old.close()

    def _locked(self, chain: Sequence[ImageRef], *, read_only: bool) -> ImageFile | None:
        """The leaf, with the right to write to it; None when that is not wanted."""
        return None if read_only else self._opened(chain[0].path)

    def _opened(self, path: Path) -> ImageFile:
        leaf = open_file(path, Access.WRITE)
        leaf.fate.told = self._lost
        return leaf

    def _require_same_size(self, new: ChainDisk) -> None:
        if new.size != self._disk.size:
            new.close()
            raise Refused(f"the chain has {new.size} bytes instead of {self._disk.size}")


def _open(chain: tuple[ImageRef, ...], leaf: ImageFile | None, *, relink: bool) -> ChainDisk:
    """Open what is below `leaf`, and take that over; nothing is left open after an error."""
    with ExitStack() as stack:
        if leaf is not None:
            stack.callback(leaf.close)
        layers = open_layers(stack, chain if leaf is None else chain[1:])
        if leaf is not None and relink:
            _relink(chain, leaf)
        return ChainDisk(chain, leaf, layers, stack.pop_all())


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _relink(chain: Sequence[ImageRef], leaf: ImageFile) -> None:
    """Make the leaf name the next image as its parent, unless it does."""
    if len(chain) < 2:
        return

    def opened(path: Path, access: Access) -> ImageFile:
        # Ours is locked, so it cannot be opened for writing a second time.
        return leaf.again(path) if path == leaf.path else open_file(path, access)

    vhd = VhdUtil(run, opened)
    link = vhd.info(chain[0].path).parent
    if link is not None and (link.name, link.format) != (chain[1].path.name, chain[1].format):
        vhd.set_parent(chain[0].path, chain[1])
