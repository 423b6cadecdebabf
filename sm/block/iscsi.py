"""iSCSI as open-iscsi's `iscsiadm` does it: names, what it prints, sessions of the kernel.

Everything here is pure, or reads below a given root of sysfs; `initiator` runs the tool.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sm.block import given
from sm.block.scsi import Unit, read
from sm.errors import SmError

PORT = 3260
ANY = "*"
LONGEST_NAME = 223  # bytes; RFC 7143, section 4.2.7.1
LONGEST_SECRET = 255

_NAME = re.compile(
    r"iqn\.[0-9]{4}-[0-9]{2}\.[A-Za-z0-9][A-Za-z0-9._:-]*"
    r"|eui\.[0-9A-Fa-f]{16}|naa\.([0-9A-Fa-f]{16}|[0-9A-Fa-f]{32})"
)
_OFFERED = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:]+):([0-9]+),-?[0-9]+ (\S+)")


@dataclass(frozen=True, slots=True)
class Target:
    """A target behind one portal; `address` without brackets."""

    address: str
    port: int
    iqn: str

    @property
    def portal(self) -> str:
        """Address and port as tools write them."""
        return f"{given.in_url(self.address)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Session:
    """One session of this host; `place` is its folder in sysfs, below which its units are."""

    iqn: str
    address: str
    port: int
    place: Path

    @property
    def name(self) -> str:
        """Which one it is, until this host boots again."""
        return self.place.name

    @property
    def host(self) -> int:
        """The number of the adapter that stands for it."""
        return int(self.place.parent.name.removeprefix("host"))


@dataclass(frozen=True, slots=True)
class Chap:
    """User names and passwords: ours, and the one by which the target proves itself, if wanted."""

    user: str
    password: str
    target_user: str
    target_password: str

    def __repr__(self) -> str:
        """Without a secret, which would end up in a log."""
        return f"Chap({self.user!r})"

    def settings(self, prefix: str) -> dict[str, str]:
        """The settings of open-iscsi below a prefix, `node.session` or `discovery.sendtargets`."""
        if not self.user:
            return {f"{prefix}.auth.authmethod": "None"}
        found = {
            "authmethod": "CHAP",
            "username": self.user,
            "password": self.password,
            "username_in": self.target_user,
            "password_in": self.target_password,
        }
        return {f"{prefix}.auth.{name}": value for name, value in found.items() if value}


def require_name(value: str) -> str:
    """The name of a target or initiator that came from outside; raises `InvalidIQN`."""
    if len(value) > LONGEST_NAME or not _NAME.fullmatch(value):
        raise SmError(f"{value[:60]!r}", name="InvalidIQN")
    return value


def chap(device_config: Mapping[str, str]) -> Chap:
    """The CHAP settings; a password without its user, or the other way round, is refused."""
    keys = ("chapuser", "chappassword", "incoming_chapuser", "incoming_chappassword")
    values = [device_config.get(key, "") for key in keys]
    for key, value in zip(keys, values, strict=True):
        # The tool's files have a line for each setting, and cut blanks off at its ends. What is
        # wrong with a password is not shown with it.
        if len(value) > LONGEST_SECRET or not value.isprintable() or value != value.strip():
            raise SmError(
                f"{key} has more than {LONGEST_SECRET} characters, or blanks at its ends, or some"
                " that cannot be printed",
                name="BadCharacter",
            )
    if bool(values[0]) != bool(values[1]) or bool(values[2]) != bool(values[3]):
        raise SmError("each chap user needs a password", name="ConfigParamsMissing")
    if values[2] and not values[0]:
        raise SmError("incoming_chapuser needs a chapuser", name="ConfigParamsMissing")
    return Chap(*values)


def parse_targets(listing: str) -> list[Target]:
    """What `iscsiadm -m discovery` prints: `address:port,group name` on each line."""
    found = []
    for line in listing.splitlines():
        match = _OFFERED.fullmatch(line.strip())
        if match and _NAME.fullmatch(match[3]):
            address = match[1].removeprefix("[").removesuffix("]")
            found.append(Target(address, int(match[2]), match[3]))
    return found


def sessions(sysfs: Path) -> list[Session]:
    """The sessions of this host that are logged in."""
    found = []
    for entry in sorted((sysfs / "class" / "iscsi_session").glob("session*")):
        number = entry.name.removeprefix("session")
        connection = sysfs / "class" / "iscsi_connection" / f"connection{number}:0"
        # .../host0/session1/iscsi_session/session1
        place = entry.resolve().parent.parent
        port = read(connection / "persistent_port")
        if read(entry / "state") == "LOGGED_IN" and port.isdigit():
            address = read(connection / "persistent_address")
            found.append(Session(read(entry / "targetname"), address, int(port), place))
    return found


def units_of(session: Session, known: Sequence[Unit]) -> list[Unit]:
    """The units that a session reaches."""
    return [unit for unit in known if unit.place.is_relative_to(session.place)]


def target_members(index: int, target: Target) -> Mapping[str, str]:
    """What a choice of targets says of one, by SMAPI's names."""
    return {
        "Index": str(index),
        "IPAddress": target.address,
        "Port": str(target.port),
        "TargetIQN": target.iqn,
    }
