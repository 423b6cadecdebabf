"""Where a host answers, as text in its record: `unix:/path` or `tls://name:port`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sm.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket on this machine."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TlsAddress:
    """A port of a host, whose certificate must be for `name`."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"tls://[{self.name}]:{self.port}" if ":" in self.name else self._plain

    @property
    def _plain(self) -> str:
        return f"tls://{self.name}:{self.port}"


Address = UnixAddress | TlsAddress


def parse(text: str) -> Address:
    """An address from its text; raises `InvalidArgument`."""
    if text.startswith("unix:/"):
        return UnixAddress(Path(text.removeprefix("unix:")))
    try:
        parts = urlsplit(text)
        name, port = parts.hostname, parts.port
    except ValueError:
        name, port = None, None
    if text.startswith("tls://") and name and port is not None:
        address = TlsAddress(name, port)
        if str(address) == text.lower():
            return address
    raise InvalidArgument(f"{text!r} is neither unix:/path nor tls://name:port")
