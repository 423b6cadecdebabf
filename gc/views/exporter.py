"""Giving the figures of `sm.gc.views.metrics` to Prometheus: as text, as a file, or over HTTP."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app

from sm.config import Settings
from sm.durable import write_file
from sm.errors import InvalidArgument
from sm.gc.views.metrics import SrMetrics
from sm.kick import short_address

log = logging.getLogger(__name__)

LOCALHOST = "127.0.0.1"
PROBE_SECONDS = 2.0

MAX_SCRAPES = 16
"""At a time, each in a thread. For one more, the one that has said nothing for longest goes."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to serve: a Unix socket, or else a host's name or number and a port."""

    path: Path | None = None
    host: str = LOCALHOST
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `unix:/path`, `HOST:PORT`, or `PORT` for this machine alone; `InvalidArgument`."""
        if text.startswith("unix:/"):
            return cls(Path(text.removeprefix("unix:")))
        host, _, port = text.rpartition(":")
        if port.isascii() and port.isdigit() and int(port) < 1 << 16:
            return cls(None, host.strip("[]") or LOCALHOST, int(port))
        raise InvalidArgument(f"{text!r} is none of unix:/path, HOST:PORT and PORT")


def registry(settings: Settings) -> CollectorRegistry:
    """A registry that looks at the SRs of this host at each scrape."""
    made = CollectorRegistry()
    made.register(SrMetrics(settings))
    return made


def text(settings: Settings) -> bytes:
    """All figures in the text format of Prometheus."""
    return generate_latest(registry(settings))


def write(settings: Settings, path: Path) -> None:
    """Replace `path` by the present figures, whole, as node_exporter's textfile collector wants."""
    write_file(path.absolute(), text(settings))


@contextmanager
def serve(settings: Settings, address: Address) -> Iterator[Address]:
    """Answer scrapes over HTTP in threads beside the block; yields where, with the real port.

    Raises `InvalidArgument` when something answers at the address already, OSError when it cannot
    be had.
    """
    server = _UnixServer(address.path) if address.path else _TcpServer(address)
    server.set_app(make_wsgi_app(registry(settings)))
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics")
    thread.start()
    try:
        port = address.port if address.path else server.server_port
        yield Address(address.path, address.host, port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(WSGIRequestHandler):
    timeout = 10.0  # a client that says nothing must not keep a thread

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as inherited
        log.debug(format, *args)


class _BoundedServer(ThreadingMixIn, WSGIServer):
    """A thread for each connection, and so many connections at most."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        self._open: dict[socket.socket, None] = {}
        self._changing = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        with self._changing:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > MAX_SCRAPES else None
            if oldest is not None:
                del self._open[oldest]
        if oldest is not None:
            with suppress(OSError):  # it left in this moment
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The end of a connection, however it came."""
        with self._changing:
            self._open.pop(request, None)
        super().shutdown_request(request)


class _TcpServer(_BoundedServer):
    def __init__(self, address: Address) -> None:
        if ":" in address.host:
            self.address_family = socket.AF_INET6
        super().__init__((address.host, address.port))


class _UnixServer(_BoundedServer):
    address_family = socket.AF_UNIX

    def __init__(self, path: Path) -> None:
        self._path = path
        _remove_dead(path)
        super().__init__(("", 0))

    def server_bind(self) -> None:
        with short_address(self._path) as address:
            self.socket.bind(address)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """A client of a Unix socket has no name, and the handler wants one."""
        connection, _ = self.socket.accept()
        return connection, ("local", 0)

    def server_close(self) -> None:
        super().server_close()
        self._path.unlink(missing_ok=True)


def _remove_dead(path: Path) -> None:
    """Remove the socket that a process which has ended left; raises when one still answers."""
    with socket.socket(socket.AF_UNIX) as probe, short_address(path) as address:
        probe.settimeout(PROBE_SECONDS)
        with suppress(FileNotFoundError, ConnectionRefusedError):
            probe.connect(address)
            raise InvalidArgument(f"something answers at {path} already")
    path.unlink(missing_ok=True)
