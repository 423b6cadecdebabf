"""Calls to XAPI over its Unix socket: the transport, the session, and what failures mean.

A call is sent once. Were it repeated after a broken connection, the first copy might have been
carried out, and `add_to_sm_config` would report a key of our own as somebody else's; only getters
are repeated, which change nothing.
"""

from __future__ import annotations

import http.client
import os
import select
import socket
import threading
import xmlrpc.client
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import XenAPI

from sm.errors import DuplicateKey, HostUnreachable, PoolError, RecordMissing, SmError
from sm.pool.errors import PoolProtocolError, PoolUnreachable, RecordExists

CALL_SECONDS = 120.0
"""XAPI answers database calls within milliseconds; it must not hold a command for ever."""

ORIGINATOR = "sm"
USER = "root"
"""Over the local socket root needs no password."""

UNREACHABLE = frozenset(
    {
        "CANNOT_CONTACT_HOST",
        "HOST_HAS_NO_MANAGEMENT_IP",
        "HOST_NOT_LIVE",
        "HOST_OFFLINE",
        "HOST_STILL_BOOTING",
        "HOST_UNKNOWN_TO_MASTER",
        "TLS_CONNECTION_FAILED",
        "XENAPI_MISSING_PLUGIN",
    }
)
"""What XAPI reports when it cannot have a host run a plugin."""

NOT_LOGGED_IN = 401
"""What XenAPI's client reports when a session that it did not open is refused."""

_BROKEN = (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError)
_SENSELESS = (xmlrpc.client.Error, ExpatError, ValueError, TypeError, LookupError)
"""What the libraries raise for a reply that is no XML-RPC, or not in XenAPI's envelope."""


class _Socket(http.client.HTTPConnection):
    """HTTP over the Unix socket at any path."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=CALL_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CALL_SECONDS)
        self.sock.connect(str(self._path))

    @property
    def ended_by_peer(self) -> bool:
        """Whether the other side has closed an idle connection, so that nothing can be sent."""
        return self.sock is not None and bool(select.select([self.sock], [], [], 0)[0])


class _Transport(XenAPI.UDSTransport):  # type: ignore[misc]
    """XenAPI's own transport, with its headers, for a socket at any path."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._connection: tuple[str | None, _Socket | None] = (None, None)

    def make_connection(self, host: str) -> _Socket:
        """The connection, kept over calls while the other side keeps it."""
        self._extra_headers: list[tuple[str, str]] = []
        self.with_tracecontext()
        self.with_originator()
        kept = self._connection[1]
        if kept is not None and kept.ended_by_peer:
            self.close()
            kept = None
        if kept is None:
            kept = _Socket(self._path)
            self._connection = host, kept
        return kept

    def request(self, host: str, handler: str, request_body: Any, verbose: bool = False) -> Any:
        """Send one request, once; the library would repeat it on a broken connection."""
        return self.single_request(host, handler, request_body, verbose)


class Connection:
    """One session with XAPI, connected at its first call.

    With `session_ref` that session is used, and left open. Without, one is opened with
    `login_with_password`, opened again when XAPI has ended it, and ended by `close`. Threads take
    turns; a process that was forked opens its own.
    """

    def __init__(self, path: Path, session_ref: str | None) -> None:
        self._path = path
        self._session_ref = session_ref
        self._session: Any = None
        self._process = 0
        self._turn = threading.Lock()

    def close(self) -> None:
        """End a session of our own, and the connection. A session that is gone is no error."""
        with self._turn:
            session, self._session = self._session, None
        if session is None or self._process != os.getpid():
            return
        try:
            if self._session_ref is None:
                session.xenapi.session.logout()
        except (XenAPI.Failure, xmlrpc.client.Error, *_BROKEN):
            # XAPI ends sessions that nobody uses; what we came for has been done.
            return
        finally:
            session.transport.close()

    def call(self, method: str, *parameters: Any) -> Any:
        """The value that `Class.method` returns, in its wire form."""
        try:
            with self._turn:
                return self._send(method, parameters)
        except XenAPI.Failure as error:
            raise _meaning(method, [str(part) for part in error.details]) from error
        except xmlrpc.client.Fault as error:
            if error.faultCode == NOT_LOGGED_IN:
                raise PoolUnreachable(f"{method}: XAPI refuses the session") from error
            raise PoolProtocolError(f"{method}: {error.faultString}") from error
        except (FileNotFoundError, ConnectionRefusedError, PermissionError) as error:
            raise PoolUnreachable(f"{self._path}: {error.strerror}") from error
        except (*_BROKEN, *_SENSELESS) as error:
            raise PoolProtocolError(f"{method}: {type(error).__name__}: {error}") from error

    def call_plugin(self, host: str, plugin: str, function: str, arguments: dict[str, str]) -> Any:
        """What a plugin on a host answers, within `CALL_SECONDS`.

        Raises `HostUnreachable` when XAPI cannot reach the host, or breaks off: the plugin may have
        run or not. Raises `SmError` with the plugin's words when it failed.
        """
        try:
            return self.call("host.call_plugin", host, plugin, function, arguments)
        except PoolProtocolError as error:
            raise HostUnreachable(f"host {host}: {error.detail}") from error

    def _send(self, method: str, parameters: tuple[Any, ...]) -> Any:
        if self._session is None or self._process != os.getpid():
            self._session = self._open()
            self._process = os.getpid()
        try:
            return self._session.xenapi_request(method, parameters)
        except _BROKEN:
            if ".get_" not in method:
                raise
            return self._session.xenapi_request(method, parameters)

    def _open(self) -> Any:
        # The URI only has to look like one; the transport knows the way.
        session = XenAPI.Session("http://localhost/", transport=_Transport(self._path))
        if self._session_ref is None:
            session.login_with_password(USER, "", XenAPI.API_VERSION_1_2, ORIGINATOR)
        else:
            session._session = self._session_ref  # the client has no other way
        return session


def _meaning(method: str, details: list[str]) -> SmError:
    """The error for XenAPI's [code, parameter...]."""
    said = f"{method}: {' '.join(details)}"
    match details[:1]:
        case ["HANDLE_INVALID" | "UUID_INVALID"]:
            return RecordMissing(said)
        case ["MAP_DUPLICATE_KEY"]:
            return DuplicateKey(said)
        case ["UNIQUENESS_CONSTRAINT_VIOLATION"]:
            return RecordExists(said)
        case ["SESSION_AUTHENTICATION_FAILED" | "HOST_IS_SLAVE"]:
            return PoolUnreachable(said)
        case ["XENAPI_PLUGIN_FAILURE"]:
            return SmError(" ".join(details[1:]))
        case [code] if code in UNREACHABLE:
            return HostUnreachable(said)
    return PoolError(said)
