"""Whether a server on the network answers at all, before a tool is left to find out slowly."""

from __future__ import annotations

import socket

from sm.errors import SmError

CONNECT_SECONDS = 10.0


def addresses(host: str) -> list[str]:
    """The addresses of a host name, or the address itself; raises `DNSError`."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SmError(f"{host}: {error}", name="DNSError") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def answering(host: str, port: int, error: str, seconds: float = CONNECT_SECONDS) -> str:
    """The first address of `host` that takes a TCP connection to `port`.

    Raises `DNSError`, or the error of that name when none does in `seconds` each.
    """
    failures: list[str] = []
    for address in addresses(host):
        try:
            with socket.create_connection((address, port), timeout=seconds):
                return address
        except OSError as failure:
            failures.append(f"{address} port {port}: {failure.strerror or failure}")
    raise SmError("; ".join(failures), name=error)
