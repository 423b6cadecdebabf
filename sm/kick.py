"""Wake the collector of an SR, or the supervisor of all of this host.

Never a failure: both also look by themselves.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

PASS_ON = b"pass on "
"""Before the UUID of an SR: wake its collector, on the host that is its master."""


def socket_path(run: Path, sr_uuid: str) -> Path:
    """Where the collector of an SR listens for datagrams."""
    return run / "gc" / f"{sr_uuid}.sock"


def supervisor_path(run: Path) -> Path:
    """Where the supervisor of this host's collectors listens for datagrams."""
    return run / "gc" / "supervisor.sock"


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """An address for a socket at `path`, however long: the kernel takes 107 bytes at most."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def kick(run: Path, sr_uuid: str) -> bool:
    """Tell the collector that there may be work; returns whether one was listening."""
    return send(socket_path(run, sr_uuid), b"kick")


def kick_anywhere(run: Path, sr_uuid: str) -> None:
    """Tell the collector, wherever it runs, that there may be work. Waits for nobody.

    From another host than the master this needs the supervisor of this host, which asks that of the
    master; without one the master finds out when it looks.
    """
    if not kick(run, sr_uuid):
        send(supervisor_path(run), PASS_ON + sr_uuid.encode("ascii"))


def attachments_changed(run: Path) -> None:
    """Tell the supervisor that an SR was attached or detached."""
    send(supervisor_path(run), b"look")


def send(path: Path, message: bytes) -> bool:
    """Send a datagram without waiting; returns whether it was taken."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            with short_address(path) as address:
                sender.sendto(message, address)
        except OSError as error:
            log.debug("nobody listens at %s: %s", path, error)
            return False
    return True
