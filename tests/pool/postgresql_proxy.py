"""Stands between a client and a PostgreSQL server, and breaks what they say at a chosen word."""

import socket
import threading
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

SOCKET = ".s.PGSQL.5432"


class Break(Enum):
    """What happens when the word is seen."""

    BEFORE = "the server never gets it, and the connection ends"
    AFTER = "the server has answered, and the connection ends before the client hears it"
    SILENT = "the server never gets it, and nobody says anything"


class PostgresqlProxy:
    """A socket in `folder`. Every connection is passed on until `word` is armed and seen."""

    def __init__(self, folder: Path, server: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.connections = 0
        self.seen = 0
        self._server = server / SOCKET
        self._word = b""
        self._break = Break.BEFORE
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.end_connections()
        (self.folder / SOCKET).unlink()

    def arm(self, word: bytes, what: Break) -> None:
        """From now on break every connection whose client says `word`."""
        self._word, self._break, self.seen = word, what, 0

    def disarm(self) -> None:
        """Pass everything on again."""
        self._word = b""

    def end_connections(self) -> None:
        for end in self._sockets:
            _end(end)
        self._sockets.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            self._sockets += [client, server]
            deaf = threading.Event()
            threading.Thread(target=self._upwards, args=(client, server, deaf), daemon=True).start()
            threading.Thread(target=_downwards, args=(server, client, deaf), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket, deaf: threading.Event) -> None:
        while content := _receive(client):
            if self._word and self._word in content:
                self.seen += 1
                if self._break is Break.BEFORE:
                    break
                if self._break is Break.SILENT:
                    return
                # The client waits for the answer to each thing it says, so what comes next is that.
                deaf.set()
            _send(server, content)
        _end(client)
        _end(server)


def _downwards(server: socket.socket, client: socket.socket, deaf: threading.Event) -> None:
    while content := _receive(server):
        if deaf.is_set():
            break
        _send(client, content)
    _end(client)
    _end(server)


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 16)
    except OSError:
        return b""


def _send(end: socket.socket, content: bytes) -> None:
    try:
        end.sendall(content)
    except OSError:
        return  # lost, as the next attempt to receive shows


def _end(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was first
    end.close()
