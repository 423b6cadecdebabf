"""A server of one export on a Unix socket: a thread for each client."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from sm.nbd.connection import Connection
from sm.nbd.export import Export
from sm.nbd.gate import Gate
from sm.nbd.handshake import negotiate
from sm.nbd.protocol import ProtocolError
from sm.nbd.shortage import Shortage
from sm.nbd.traffic import Traffic

log = logging.getLogger(__name__)

MAX_CLIENTS = 16
"""Each may make us hold a request of 32 MiB; a disk has one user, with a few connections."""

ACCEPT_PAUSE = 0.1
"""Seconds until the next try, where the system has no descriptor left."""


class NbdServer:
    """Serves `export` as `name`. Flushes are for all connections at once.

    `grows`: a write that finds no room (ENOSPC) waits until there is some.
    """

    def __init__(self, name: str, export: Export, *, grows: bool = False) -> None:
        self.export = export
        self._shortage = Shortage(grows=grows)
        self._name = name.encode()
        self._gate = Gate()
        self._clients: set[socket.socket] = set()
        self._greeted: dict[socket.socket, None] = {}
        self._connections: set[Connection] = set()
        self._past = Traffic()
        self._changing = threading.Lock()
        self._stopped = False
        self._listener = socket.socket(socket.AF_UNIX)

    def listen(self, path: Path) -> None:
        """Take the socket at `path`, in place of a stale one; clients may connect from now on."""
        path.unlink(missing_ok=True)
        self._listener.bind(os.fspath(path))
        self._listener.listen()

    def start(self) -> None:
        """Answer clients, in threads of their own."""
        threading.Thread(target=self._accept, name="nbd", daemon=True).start()

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients)

    @property
    def waiting(self) -> int:
        """How many clients have a write that waits for room."""
        return self._shortage.waiting

    @property
    def traffic(self) -> Traffic:
        """What all clients moved since the start, those that have left too."""
        found = Traffic()
        with self._changing:
            found.add(self._past)
            for each in self._connections:
                found.add(each.traffic)
        return found

    def pause(self, seconds: float) -> None:
        """Finish the requests under way and hold all others; clients stay connected.

        TimeoutError, and no pause, when that takes longer than `seconds`.
        """
        self._gate.shut(seconds)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._gate.open()

    def stop(self) -> None:
        """Take no more clients and let those go that are there. Does not flush."""
        with self._changing:
            self._stopped = True
            for each in (self._listener, *self._clients):
                with suppress(OSError):  # it left in this moment
                    each.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if self._stopped:
                    return
                log.warning("no new client: %s", error)
                time.sleep(ACCEPT_PAUSE)
                continue
            with self._changing:
                if self._stopped or not self._has_place():
                    client.close()
                    continue
                self._clients.add(client)
                self._greeted[client] = None
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _has_place(self) -> bool:
        """Whether one more client may come; who has not said what it wants for longest must go."""
        if len(self._clients) < MAX_CLIENTS:
            return True
        silent = next(iter(self._greeted), None)
        if silent is None:
            return False
        del self._greeted[silent]
        self._clients.discard(silent)
        with suppress(OSError):  # it left in this moment
            silent.shutdown(socket.SHUT_RDWR)
        return True

    def _serve(self, client: socket.socket) -> None:
        connection: Connection | None = None
        try:
            agreed = negotiate(client, self._name, self.export)
            with self._changing:
                welcome = client in self._greeted
                self._greeted.pop(client, None)
            if agreed is not None and welcome:
                gate, shortage = self._gate, self._shortage
                connection = Connection(client, agreed, gate, lambda: self.export, shortage)
                with self._changing:
                    self._connections.add(connection)
                connection.run()
        except (ProtocolError, OSError) as error:
            log.info("a client was let go: %s", error)
        finally:
            with self._changing:
                if connection is not None:
                    self._connections.discard(connection)
                    self._past.add(connection.traffic)
                self._clients.discard(client)
                self._greeted.pop(client, None)
                client.close()
