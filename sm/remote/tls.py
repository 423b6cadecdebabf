"""TLS between hosts: each side shows a certificate of the pool's own authority, or is refused."""

from __future__ import annotations

import ssl

from sm.config import Credentials
from sm.errors import InvalidArgument


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """For the side that is called; whoever calls must have a certificate of the same authority."""
    return _context(ssl.Purpose.CLIENT_AUTH, credentials)


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """For the side that calls; the certificate must be for the name that is called."""
    return _context(ssl.Purpose.SERVER_AUTH, credentials)


def _context(purpose: ssl.Purpose, credentials: Credentials) -> ssl.SSLContext:
    """Raises `InvalidArgument` when the files cannot be used."""
    try:
        # With a file of its own, none of the system's authorities is trusted.
        context = ssl.create_default_context(purpose, cafile=str(credentials.authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(credentials.certificate, credentials.key)
    except OSError as error:
        files = f"{credentials.certificate}, {credentials.key}, {credentials.authority}"
        raise InvalidArgument(f"TLS cannot use {files}: {error}") from error
    return context
