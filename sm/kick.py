"""Wake the collector of an SR, if one is running. Never a failure: it also looks by itself."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

log = logging.getLogger(__name__)


def socket_path(run: Path, sr_uuid: str) -> Path:
    """Where the collector of an SR listens for datagrams."""
    return run / "gc" / f"{sr_uuid}.sock"


def kick(run: Path, sr_uuid: str) -> bool:
    """Tell the collector that there may be work; returns whether one was listening."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto(b"kick", str(socket_path(run, sr_uuid)))
        except OSError as error:
            log.debug("no collector listens for %s: %s", sr_uuid, error)
            return False
    return True
