"""The process that watches all disks of this host whose volumes grow, a thread or two for each."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from contextlib import suppress
from functools import partial

from sm import watching
from sm.config import Settings
from sm.datapath.base import Disk
from sm.errors import SmError
from sm.kick import short_address
from sm.locks import Locks
from sm.pool.base import Pool
from sm.pool.open import open_pool
from sm.thin.giver import Giver
from sm.thin.marks import Marks
from sm.thin.watch import Watch

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often it looks for disks by itself; whoever opens one tells it."""

PRIORITY = -15
"""Where we may: see nice(2)."""

IDLE_SECONDS = 5.0
"""How long it stays when there is no disk left."""

LOCK_SECONDS = 30.0
"""For another watcher, which is about to end, to do so."""


def work(settings: Settings, parent: int) -> int:
    """Watch until no disk is left; returns the exit status: 0 for that.

    `parent` is the end of a pipe whose other end the keeper has. When the keeper ends, another one
    is started, and this goes on until that one has taken over.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(PermissionError):
        # It does little, and what it does not do in time a guest would notice.
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    locks = Locks(settings.locks, settings.host_uuid, settings.lock_seconds)
    held = locks.hold("thin", f"{settings.host_uuid}.watcher", "thin", seconds=LOCK_SECONDS)
    with held, open_pool(settings, None) as pool, _listening(settings) as told:
        _Watcher(settings, pool).run(told, parent)
    return 0


class _Watcher:
    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._watches: dict[Disk, Watch] = {}

    def run(self, told: socket.socket, parent: int) -> None:
        ends: list[socket.socket | int] = [told, parent]
        idle_since = time.monotonic()
        ask_again = 0.0
        first = watching.keeper(self._settings)
        while True:
            self._look()
            now = time.monotonic()
            if self._watches:
                idle_since = now
            if now - idle_since > IDLE_SECONDS:
                return
            # A process that is being killed closes its pipes before it is seen to have ended.
            if parent not in ends and watching.keeper(self._settings) not in (None, first):
                return
            if parent not in ends and now > ask_again:
                watching.ensure(self._settings)
                ask_again = now + watching.AGAIN_SECONDS
            ready, _, _ = select.select(ends, [], [], LOOK_SECONDS)
            if told in ready:
                with suppress(BlockingIOError):
                    while told.recv(64):
                        pass
            if parent in ready:
                ends.remove(parent)
                log.warning("the keeper of the watcher of thin disks has ended; another one starts")

    def _look(self) -> None:
        """Begin with disks that are new, and forget those whose watches have ended."""
        for disk in [disk for disk, watch in self._watches.items() if watch.ended]:
            del self._watches[disk]
        for datapath, served in watching.growing(self._settings):
            disk = served.disk
            if disk not in self._watches:
                giver = Giver(self._settings, self._pool, disk, served.chain[0].format)
                taken_up = partial(
                    watching.sign, self._settings, watching.disk_note(self._settings, disk)
                )
                marks = Marks(self._settings.thin_spare_bytes)
                self._watches[disk] = Watch(disk, datapath, giver, marks, taken_up)
                self._watches[disk].start()


def _listening(settings: Settings) -> socket.socket:
    """A socket for datagrams, in place of one that is left over: there is one watcher at a time."""
    path = watching.socket_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with short_address(path) as address:
        told.bind(address)
    return told


def run_in_child(settings: Settings, parent: int) -> None:
    """Be the watcher in a process that was forked for it; never returns."""
    status = 1
    try:
        status = work(settings, parent)
    except (SmError, OSError) as error:
        log.error("the watcher of thin disks ends: %s", error)
    finally:
        # Threads that wait for a master that does not answer must not keep it.
        os._exit(status)
