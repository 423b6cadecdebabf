"""XML-RPC over a Unix socket: HTTP/1.1 with connections that are kept, as XAPI serves it."""

import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

Answer = Callable[[str, tuple[Any, ...]], Any]


class Handler(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"
    rpc_paths = ()
    disable_nagle_algorithm = False  # a Unix socket has none

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: standard output may carry our own announcement."""

    def address_string(self) -> str:
        return "local"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer, SimpleXMLRPCDispatcher):
    daemon_threads = True
    block_on_close = False
    logRequests = False  # noqa: N815 - the name that the library looks for

    def __init__(self, path: Path, answer: Answer, lock: threading.RLock) -> None:
        SimpleXMLRPCDispatcher.__init__(self, allow_none=True)
        self._answer = answer
        self._lock = lock
        self.connections: set[socket.socket] = set()
        socketserver.UnixStreamServer.__init__(self, str(path), Handler)

    def _dispatch(self, method: str, params: Iterable[Any]) -> Any:
        return self._answer(method, tuple(params))

    def _marshaled_dispatch(self, *parameters: Any) -> Any:
        # Locked until the reply is text: a record must not change while it is written.
        with self._lock:
            reply = super()._marshaled_dispatch(*parameters)
        # XAPI sends strings without their type.
        text: bytes = reply  # type: ignore[assignment]  # which typeshed takes for text
        return text.replace(b"<string>", b"").replace(b"</string>", b"")

    def get_request(self) -> tuple[socket.socket, Any]:
        request, address = super().get_request()
        self.connections.add(request)
        return request, address

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is what some tests want; anything else is told."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def drop_connections(self) -> None:
        for request in list(self.connections):
            self.connections.discard(request)
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client has left meanwhile
