"""Calling another host. Each call is sent once: a second might do again what the first did.

Whatever goes wrong, the other host may have carried the call out or not.
"""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from collections.abc import Mapping
from xml.parsers.expat import ExpatError

from sm.config import Credentials
from sm.errors import HostUnreachable, SmError
from sm.remote import address as addresses
from sm.remote.address import UnixAddress
from sm.remote.deadline import Deadline
from sm.smapi import xmlrpc as wire

CONNECT_SECONDS = 5.0
"""To connect, and with TLS to agree. A host that is there does it in milliseconds."""

ANSWER_SECONDS = 120.0
"""Some requests make a host wait for others, or mend what a crash left; none takes longer."""

MAX_ANSWER = 4 << 20
METHOD = "ask"


def ask(
    address: str, function: str, arguments: Mapping[str, str], credentials: Credentials | None
) -> str:
    """What the host at `address` answers.

    Raises `HostUnreachable` when it does not, in time and in good form.
    """
    if not address:
        raise HostUnreachable("it has no address; start its sm-hostd")
    document = wire.call(METHOD, [function, dict(arguments)]).encode("utf-8")
    try:
        with _connect(address, credentials) as connection:
            return _exchange(connection, document)
    except (OSError, http.client.HTTPException, ValueError, SmError) as error:
        raise HostUnreachable(f"{address}: {_said(error)}") from error


def _connect(address: str, credentials: Credentials | None) -> socket.socket:
    where = addresses.parse(address)
    if isinstance(where, UnixAddress):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(str(where.path))
        except BaseException:
            connection.close()
            raise
        return connection
    if credentials is None:
        raise HostUnreachable("this host has no certificate; set host_certificate in sm.conf")
    from sm.remote.tls import client_context  # noqa: PLC0415 - only where TLS is used

    context = client_context(credentials)
    plain = socket.create_connection((where.name, where.port), timeout=CONNECT_SECONDS)
    try:
        connection = context.wrap_socket(
            plain, server_hostname=where.name, do_handshake_on_connect=False
        )
    except BaseException:
        plain.close()
        raise
    try:
        with Deadline(connection, CONNECT_SECONDS):
            connection.do_handshake()
    except BaseException:
        connection.close()
        raise
    return connection


def _exchange(connection: socket.socket, document: bytes) -> str:
    connection.settimeout(ANSWER_SECONDS)
    with Deadline(connection, ANSWER_SECONDS) as deadline:
        exchange = http.client.HTTPConnection("localhost")
        exchange.sock = connection
        try:
            exchange.request("POST", "/", document, {"Content-Type": "text/xml"})
            response = exchange.getresponse()
            body = response.read(MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if deadline.passed:
                raise TimeoutError(f"no answer within {ANSWER_SECONDS:.0f} s") from error
            raise
    if response.status != http.client.OK:
        raise ValueError(f"HTTP status {response.status} {response.reason}")
    if len(body) > MAX_ANSWER:
        raise ValueError(f"the answer is longer than {MAX_ANSWER} bytes")
    return _parse(body)


def _parse(body: bytes) -> str:
    try:
        values, _ = xmlrpc.client.loads(body)
    except (xmlrpc.client.Error, ExpatError, TypeError, LookupError) as error:
        raise ValueError(f"no answer in XML-RPC: {error}") from error
    if len(values) != 1 or not isinstance(values[0], str):
        raise ValueError("the answer is no text")
    return values[0]


def _said(error: Exception) -> str:
    if isinstance(error, SmError):
        return error.detail
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
