"""vdi_attach_from_config and its counterpart, as the toolstack calls them without a session."""

from __future__ import annotations

import xmlrpc.client
from pathlib import Path
from typing import Any

from tests.support.plugin import Plugin
from tests.support.site import Site


def attach(site: Site, location: Path, sr: str, vdi: str) -> str:
    """Have a disk served; returns the URI of its socket."""
    reply = _call("vdi_attach_from_config", site, location, sr, vdi)
    socket, _, name = reply["params_nbd"].removeprefix("nbd:unix:").partition(":exportname=")
    return f"nbd+unix:///{name}?socket={socket}"


def detach(site: Site, location: Path, sr: str, vdi: str) -> None:
    """Have it served no longer."""
    _call("vdi_detach_from_config", site, location, sr, vdi)


def _call(command: str, site: Site, location: Path, sr: str, vdi: str) -> Any:
    members = {
        "command": command,
        "args": ["true"],
        "device_config": {"location": str(location), "SRmaster": "true"},
        "sr_uuid": sr,
        "vdi_uuid": vdi,
    }
    ended = Plugin(site.root).raw(xmlrpc.client.dumps((members,), command))
    ((reply,), _) = xmlrpc.client.loads(ended.stdout)
    return reply
