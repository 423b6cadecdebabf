"""Wake the collector of an SR, if one is running. Never a failure: it also looks by itself."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


def socket_path(run: Path, sr_uuid: str) -> Path:
    """Where the collector of an SR listens for datagrams."""
    return run / "gc" / f"{sr_uuid}.sock"


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
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            with short_address(socket_path(run, sr_uuid)) as address:
                sender.sendto(b"kick", address)
        except OSError as error:
            log.debug("no collector listens for %s: %s", sr_uuid, error)
            return False
    return True
