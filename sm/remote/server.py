"""Being called by other hosts: a thread for each call, bounded in number, size and time."""

from __future__ import annotations

import http.server
import logging
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

from sm.errors import BadRequest
from sm.remote.address import Address, TlsAddress, UnixAddress
from sm.remote.client import METHOD
from sm.remote.deadline import Deadline
from sm.smapi import xmlrpc

log = logging.getLogger(__name__)

Answer = Callable[[str, Mapping[str, str]], str]
"""From function and arguments to the text of the answer."""

MAX_CALLS = 32
"""At a time. Another one waits, and is let go when none ends within `SLOT_SECONDS`."""

MAX_STRANGERS = 128
"""Connections at a time of which it is not known yet who is there. For one more the oldest goes."""

SLOT_SECONDS = 10.0

READ_SECONDS = 15.0
"""For TLS to agree, and again for the whole request to be there."""

MAX_REQUEST = 256 << 10
"""Bytes. The longest request names the images of a chain."""

ACCEPT_PAUSE = 0.1
"""Seconds until the next try, where the system has no descriptor left."""


class HostServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens at `address` from the start; answers from `serve_forever` until `stop`.

    Raises OSError when the address cannot be taken. A stale socket file is replaced: that no other
    process serves there is for the caller to see to.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self, address: Address, answer: Answer, context: ssl.SSLContext | None = None
    ) -> None:
        self.answer = answer
        self._address = address
        self._context = context
        self._slots = threading.BoundedSemaphore(MAX_CALLS)
        self._strangers: dict[socket.socket, None] = {}
        self._changing = threading.Lock()
        place: Any
        if isinstance(address, UnixAddress):
            address.path.unlink(missing_ok=True)
            self.address_family, place = socket.AF_UNIX, str(address.path)
        else:
            found = socket.getaddrinfo(address.name, address.port, type=socket.SOCK_STREAM)
            self.address_family, place = found[0][0], found[0][4][:2]
        super().__init__(place, _Handler, bind_and_activate=False)
        try:
            self.server_bind()
            if isinstance(address, UnixAddress):
                address.path.chmod(0o600)  # before anybody can connect
            self.server_activate()
        except BaseException:
            self.server_close()
            raise

    @property
    def address(self) -> Address:
        """Where it listens, with the port that the system chose if it was to."""
        if isinstance(self._address, TlsAddress):
            return TlsAddress(self._address.name, self.socket.getsockname()[1])
        return self._address

    def stop(self, seconds: float) -> None:
        """Take no more calls, and wait for those under way, `seconds` at most."""
        self.shutdown()
        self.server_close()
        if isinstance(self._address, UnixAddress):
            self._address.path.unlink(missing_ok=True)
        deadline = time.monotonic() + seconds
        for _ in range(MAX_CALLS):
            if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
                log.warning("a call was still under way at the end")
                return

    # What socketserver calls

    def get_request(self) -> tuple[Any, Any]:
        """Take the next connection."""
        try:
            return super().get_request()
        except OSError as error:
            log.warning("no connection taken: %s", error)
            time.sleep(ACCEPT_PAUSE)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        self._greet(request)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one call."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer one call over a connection."""
        if self._context is None:  # only we ourselves can open the socket
            with self._slot(request):
                _Handler(request, client_address, self)
            return
        self._forget(request)
        with self._context.wrap_socket(
            request, server_side=True, do_handshake_on_connect=False
        ) as secured:
            secured.settimeout(READ_SECONDS)
            self._greet(secured)
            try:
                with Deadline(secured, READ_SECONDS):
                    secured.do_handshake()
                with self._slot(secured):
                    _Handler(secured, client_address, self)
            finally:
                self._forget(secured)
            with suppress(OSError):  # the caller has its answer, and may have left
                secured.shutdown(socket.SHUT_RDWR)

    def _greet(self, request: socket.socket) -> None:
        """Count one more of whom it is not known who it is; the oldest is let go for it."""
        with self._changing:
            self._strangers[request] = None
            oldest = next(iter(self._strangers)) if len(self._strangers) > MAX_STRANGERS else None
            if oldest is not None:
                del self._strangers[oldest]
        if oldest is not None:
            log.info("a caller was let go that did not say who it is")
            with suppress(OSError):  # it left in this moment
                # Not the method of a TLS socket: that would go on in plain text.
                socket.socket.shutdown(oldest, socket.SHUT_RDWR)

    def _forget(self, request: socket.socket) -> None:
        with self._changing:
            self._strangers.pop(request, None)

    @contextmanager
    def _slot(self, request: socket.socket) -> Iterator[None]:
        """The place of a caller who is known; OSError when none becomes free in time."""
        self._forget(request)
        if not self._slots.acquire(timeout=SLOT_SECONDS):
            raise ConnectionAbortedError(f"{MAX_CALLS} other calls are under way")
        try:
            yield
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note why a caller got no answer; a defect of ours with its traceback."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            log.info("a caller was let go: %s", error)
        else:
            log.exception("unexpected failure")


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection, one call."""

    server: HostServer
    timeout = READ_SECONDS

    def handle(self) -> None:
        """Read the request before the deadline, and answer it."""
        with Deadline(self.connection, READ_SECONDS) as self._reading:
            self.handle_one_request()

    def do_POST(self) -> None:
        """The one kind of request that there is."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return
        if len(length) > len(str(MAX_REQUEST)) or int(length) > MAX_REQUEST:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        document = self.rfile.read(int(length))
        if len(document) < int(length):
            return  # the caller left, or was too slow
        self._reading.cancel()
        try:
            function, arguments = _asked(document)
        except BadRequest as error:
            log.warning("a call that makes no sense: %s", error.detail)
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        log.info("asked to %r", function)
        reply = xmlrpc.reply(self.server.answer(function, arguments)).encode("utf-8")
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """The library's own lines go to our log."""
        log.debug(format, *arguments)


def _asked(document: bytes) -> tuple[str, dict[str, str]]:
    """Function and arguments of the one method; raises `BadRequest`."""
    try:
        method, parameters = xmlrpc.parse_call(document.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRequest("the document is no UTF-8") from error
    if method != METHOD:
        raise BadRequest(f"the method is {method!r}, not {METHOD!r}")
    match parameters:
        case [str(function), dict(arguments)]:
            texts = {name: text for name, text in arguments.items() if isinstance(text, str)}
            if len(texts) == len(arguments):
                return function, texts
    raise BadRequest("the parameters must be a string and a struct of strings")
