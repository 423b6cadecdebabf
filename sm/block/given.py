"""Values of device_config, which come from outside and become arguments and paths.

Each function gives the value in its one safe form, or refuses it with a typed error. Nothing that
passes here can be taken for an option, a second value or another folder.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path

from sm.errors import InvalidArgument, SmError

LONGEST_VALUE = 4096
LONGEST_PATH = 1024  # bytes; what the mount protocol of NFS 3 carries (RFC 1813, MNTPATHLEN)
LONGEST_NAME = 253  # bytes; RFC 1035 without the last dot

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_UNSAFE = frozenset(",\\'\"`$;|&<>*?")


def text(device_config: Mapping[str, str], key: str) -> str:
    """The value of a key, the empty text where there is none; raises `BadCharacter`."""
    value = device_config.get(key, "")
    if len(value) > LONGEST_VALUE:
        raise InvalidArgument(f"{key} has {len(value)} characters, more than {LONGEST_VALUE}")
    if not value.isprintable():
        raise SmError(f"{key} is {value!r}", name="BadCharacter")
    return value


def flag(device_config: Mapping[str, str], key: str) -> bool:
    """A key that is `true` or `false`, false where it is missing."""
    value = text(device_config, key).lower()
    if value not in ("", "true", "false"):
        raise InvalidArgument(f"{key} is {value!r}, neither true nor false")
    return value == "true"


def host(value: str, key: str) -> str:
    """A host name, or an address in its usual form, IPv6 without brackets."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        labels = value.removesuffix(".").split(".")
    if len(value) > LONGEST_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise SmError(f"{key} {value[:60]!r} is no host name and no address", name="BadCharacter")
    return value


def in_url(address: str) -> str:
    """A host as it stands before a colon: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def port(value: str, key: str, default: int, error: str = "InvalidArg") -> int:
    """A TCP port from 1 to 65535; `error` is the name of the error that is raised."""
    if not value:
        return default
    if not re.fullmatch(r"[0-9]{1,5}", value) or not 0 < int(value) < 1 << 16:
        raise SmError(f"{key} {value[:60]!r} is no number from 1 to 65535", name=error)
    return int(value)


def absolute_path(value: str, key: str, error: str) -> str:
    """An absolute path without `..` and without characters that mean something to others."""
    parts = value.split("/")
    fine = (
        value.startswith("/")
        and value.isprintable()
        and len(value.encode()) <= LONGEST_PATH
        and ".." not in parts
        and not any(character.isspace() or character in _UNSAFE for character in value)
    )
    if not fine:
        raise SmError(
            f"{key} {value[:60]!r} is no absolute path without blanks, commas, quotes and '..'",
            name=error,
        )
    return "/" + "/".join(part for part in parts if part not in ("", "."))


def device_paths(device_config: Mapping[str, str]) -> list[Path]:
    """The devices that `device` names, by commas; raises `ConfigDeviceMissing` or `...Invalid`."""
    value = text(device_config, "device")
    if not value:
        raise SmError(name="ConfigDeviceMissing")
    found = [
        Path(absolute_path(part, "device", "ConfigDeviceInvalid")) for part in value.split(",")
    ]
    outside = [str(path) for path in found if path.parts[1:2] != ("dev",)]
    if outside or len(set(found)) < len(found):
        raise SmError(
            f"{value[:200]!r} must name devices below /dev, each once", name="ConfigDeviceInvalid"
        )
    return found
