"""Kicks for collectors of other hosts: what is activated here may be merged there.

Other hosts are asked in a thread of its own, because one that does not answer takes its time. That
is best effort: a kick that is lost costs the master the wait until it looks by itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from sm.config import Settings
from sm.errors import SmError
from sm.hosts.calls import ask
from sm.pool.base import Pool
from sm.repository import Repository
from sm.uuids import require_uuid

log = logging.getLogger(__name__)


class PassingOn:
    """Tells the masters of SRs, each once however often it is asked meanwhile."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._changed = threading.Condition()
        self._wanted: dict[str, None] = {}
        self._thread: threading.Thread | None = None

    def take(self, srs: Iterable[str]) -> None:
        """Have the masters of these SRs told, soon."""
        wanted = dict.fromkeys(srs)
        if not wanted:
            return
        with self._changed:
            self._wanted |= wanted
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pass-on", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._wanted:
                    self._changed.wait()
                sr = next(iter(self._wanted))
                del self._wanted[sr]
            try:
                self._pass_on(sr)
            except SmError as error:
                log.info("the master of SR %s was not told: %s", sr, error)

    def _pass_on(self, sr: str) -> None:
        require_uuid(sr)
        repository = Repository.open(sr, self._settings, self._pool)
        master = self._pool.sr_master(self._pool.sr_by_uuid(sr))
        if master and master != self._pool.this_host().ref:
            ask(repository, master, "kick")
