"""One served disk within its process: the NBD server, the chain behind it, the lock on its leaf.

A chain is replaced while the clients wait. Order: everything written is made durable; the new
parents are opened and looked at; the leaf is relinked where it names another parent; it is opened
anew. A crash leaves the leaf with the old or the new link, in one atomic step, and the disk reads
the same through either.

In a pause the clients wait for longer: no image is open, and others may do with them what they
like.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageError
from sm.cowutil.vhd.util import VhdUtil
from sm.datapath.vhd_nbd.disk import ChainDisk, open_disk
from sm.datapath.vhd_nbd.files import ImageFile, WriterLock
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

    `ImageError` or OSError where it cannot be opened.
    """

    def __init__(
        self, chain: Sequence[ImageRef], nbd: Path, export: str, *, read_only: bool
    ) -> None:
        self._lock = None if read_only else WriterLock(chain[0].path)
        self._disk = open_disk(chain, self._lock)
        self._server = NbdServer(export, self._disk)
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
    def paused(self) -> bool:
        """Whether the clients wait, and nothing is open."""
        return self._paused

    def pause(self) -> None:
        """Make everything durable, close all files and give up the lock; the clients wait.

        Repeated, no change. OSError, and no pause, when the requests under way do not end in time
        or cannot be made durable.
        """
        with self._changing:
            self._check_serving()
            if self._paused:
                return
            self._server.pause(PAUSE_SECONDS)
            try:
                self._disk.flush()
            except OSError:
                self._server.resume()
                raise
            self._release()
            self._paused = True

    def resume(self, chain: Sequence[ImageRef]) -> None:
        """Open a chain of the same size and let the clients go on; no change if not paused.

        Raises `Refused`, `ImageError` or OSError; still paused then.
        """
        with self._changing:
            self._check_serving()
            if not self._paused:
                return
            lock = None if self._disk.read_only else WriterLock(chain[0].path)
            try:
                disk = self._of_same_size(open_disk(chain, lock))
            except (ImageError, OSError, Refused):
                if lock is not None:
                    lock.release()
                raise
            self._disk = self._server.export = disk
            self._lock = lock
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
                self._release()

    def _check_serving(self) -> None:
        if self._stopped:
            raise Refused("the disk is being closed")

    def _release(self) -> None:
        self._disk.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _replace(self, chain: tuple[ImageRef, ...]) -> None:
        old, old_lock = self._disk, self._lock
        same_leaf = old_lock is not None and _identity(chain[0].path) == old_lock.identity
        lock = old_lock
        if old_lock is not None and not same_leaf:
            lock = WriterLock(chain[0].path)
        try:
            new = self._open(chain, lock, relink=same_leaf)
        except (ImageError, OSError, Refused):
            if lock is not None and lock is not old_lock:
                lock.release()
            old.reload()
            raise
        self._disk = self._server.export = new
        self._lock = lock
        old.close()
        if old_lock is not None and lock is not old_lock:
            old_lock.release()

    def _open(
        self, chain: tuple[ImageRef, ...], lock: WriterLock | None, *, relink: bool
    ) -> ChainDisk:
        if lock is None:
            return self._of_same_size(open_disk(chain, None))
        with ExitStack() as stack:
            layers = open_layers(stack, chain[1:])
            if relink:
                _relink(chain)
            return self._of_same_size(ChainDisk(chain, lock, layers, stack.pop_all()))

    def _of_same_size(self, new: ChainDisk) -> ChainDisk:
        if new.size != self._disk.size:
            new.close()
            raise Refused(f"the chain has {new.size} bytes instead of {self._disk.size}")
        return new


def _identity(path: Path) -> tuple[int, int]:
    file = ImageFile(path, writable=False)
    try:
        return file.identity
    finally:
        file.close()


def _relink(chain: Sequence[ImageRef]) -> None:
    """Make the leaf name the next image as its parent, unless it does."""
    if len(chain) < 2:
        return
    vhd = VhdUtil(run)
    link = vhd.info(chain[0].path).parent
    if link is not None and (link.name, link.format) != (chain[1].path.name, chain[1].format):
        vhd.set_parent(chain[0].path, chain[1])
