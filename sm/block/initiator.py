"""Runs open-iscsi's `iscsiadm`: discovery, login, logout; and where it keeps its settings.

No secret is ever on a command line, where every user of this host could read it, nor in a log.
Settings of CHAP go straight into the files in which open-iscsi keeps what it is told, which only
root can read, and are gone with the record after the discovery or the logout. open-iscsi writes
a setting on each line, `name = value`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from sm import durable, process
from sm.block import iscsi
from sm.block.iscsi import Chap, Session, Target
from sm.cowutil.base import ToolResult
from sm.errors import SmError, ToolFailed

log = logging.getLogger(__name__)

TOOL_SECONDS = 90.0
DATABASES = (Path("/etc/iscsi"), Path("/var/lib/iscsi"))
"""Where distributions have open-iscsi keep its records."""

INITIATOR_NAME = Path("/etc/iscsi/initiatorname.iscsi")
PRIVATE = 0o600

# Exit statuses of iscsiadm(8).
NO_DISCOVERY_RECORD = 6
EXISTS = 15
NO_DAEMON = 20
NOTHING_FOUND = 21
NOT_AUTHORIZED = 24

_CHAP = re.compile(r"\s*\S+\.auth\.(authmethod|username|password|username_in|password_in)\s*=")


def require_initiator(path: Path = INITIATOR_NAME) -> str:
    """The name of this host as an initiator; raises `ConfigISCSIIQNMissing`."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise SmError(f"{path}: {error.strerror}", name="ConfigISCSIIQNMissing") from error
    for line in lines:
        key, _, value = line.partition("=")
        if key.strip() == "InitiatorName" and value.strip():
            return iscsi.require_name(value.strip())
    raise SmError(f"{path} has no line InitiatorName=iqn...", name="ConfigISCSIIQNMissing")


def discover(portal: str, chap: Chap) -> list[Target]:
    """The targets behind a portal, `address:port`.

    Raises `ISCSIDiscovery`, or `ISCSILogin` where the portal wants other secrets.
    """
    of_portal = ("iscsiadm", "-m", "discoverydb", "-t", "sendtargets", "-p", portal)
    address, _, port = portal.rpartition(":")
    record = Path("send_targets", f"{address.strip('[]')},{port}", "st_config")
    _run("ISCSIDiscovery", *of_portal, "-o", "new")
    try:
        _set(_record(record), chap.settings("discovery.sendtargets"))
        # No record of each target is kept: only what is used has one, from its login on.
        command = (*of_portal, "-o", "nonpersistent", "--discover")
        found = _run("ISCSIDiscovery", *command, accept=NOTHING_FOUND)
    finally:
        _forget(*of_portal)
    return iscsi.parse_targets(found.stdout)


def login(target: Target, chap: Chap) -> None:
    """Log in to a target, unless there is a session; raises `ISCSILogin` or `ISCSIDaemon`."""
    node = _node(target)
    _run("ISCSILogin", *node, "-o", "new")
    try:
        record = Path("nodes", target.iqn, f"{target.address},{target.port}")
        # This host logs in when an SR is attached, and not by itself at boot.
        _set(_record(record), {"node.startup": "manual", **chap.settings("node.session")})
        _run("ISCSILogin", *node, "--login", accept=EXISTS)
    except BaseException:
        _forget(*node)
        raise


def logout(session: Session) -> None:
    """End a session and forget how it was begun; raises `ISCSILogout`."""
    node = _node(Target(session.address, session.port, session.iqn))
    _run("ISCSILogout", *node, "--logout", accept=NOTHING_FOUND)
    _forget(*node)


def _node(target: Target) -> list[str]:
    return ["iscsiadm", "-m", "node", "-T", target.iqn, "-p", target.portal]


def _run(error: str, *command: str, accept: int = 0) -> ToolResult:
    """Run the tool; what it fails with is called `error` where its status says nothing better."""
    try:
        result = process.run(
            command, timeout=TOOL_SECONDS, accept={0, accept, NO_DAEMON, NOT_AUTHORIZED}
        )
    except ToolFailed as failed:
        raise SmError(failed.detail, name=error) from failed
    if result.code in (NO_DAEMON, NOT_AUTHORIZED):
        name = "ISCSIDaemon" if result.code == NO_DAEMON else "ISCSILogin"
        raise SmError(" ".join(result.stderr.split())[-400:], name=name)
    return result


def _forget(*record: str) -> None:
    """Remove a record, if it is there. A failure is logged: what was done counts, or its error."""
    try:
        process.run(
            [*record, "-o", "delete"],
            timeout=TOOL_SECONDS,
            accept=(0, NO_DISCOVERY_RECORD, NOTHING_FOUND),
        )
    except ToolFailed as failed:
        log.warning("a record of open-iscsi stays: %s", failed)


def _record(name: Path) -> Path:
    """The file of a record that was just made."""
    for folder in DATABASES:
        if (folder / name).is_file():
            return folder / name
    places = ", ".join(map(str, DATABASES))
    raise SmError(f"open-iscsi has no {name} in {places}", name="ISCSIQueryDaemon")


def changed(content: str, settings: Mapping[str, str]) -> str:
    """The text of a record with these settings, and with none of an earlier CHAP; pure."""
    lines = [
        line
        for line in content.splitlines()
        if not _CHAP.match(line) and line.partition("=")[0].strip() not in settings
    ]
    end = next((at for at, line in enumerate(lines) if line.startswith("# END RECORD")), len(lines))
    added = [f"{name} = {value}" for name, value in settings.items()]
    return "\n".join([*lines[:end], *added, *lines[end:]]) + "\n"


def _set(record: Path, settings: Mapping[str, str]) -> None:
    content = changed(record.read_text(encoding="utf-8"), settings)
    durable.write_file(record, content.encode("utf-8"), mode=PRIVATE)
