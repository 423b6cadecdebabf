"""`sm-hostd`: does what other hosts of the pool ask of this one, until it is told to stop.

With XAPI there is no need of it: XAPI carries the same requests to the plugin, see
`sm.hosts.plugin`. It holds nothing that a crash could lose; but a crash may leave users of a disk
waiting, and then the next start lets them go on.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from sm import config, log, watching
from sm.attachment import Attachments
from sm.config import Settings
from sm.cowutil.errors import ImageError
from sm.datapath.sockets import release_folder, socket_folder
from sm.errors import InvalidArgument, SmError
from sm.hosts.calls import answer
from sm.hosts.leaf_switch import settle_all
from sm.locks import Locks
from sm.pool.base import PoolAdmin
from sm.pool.open import open_pool
from sm.remote import address as addresses
from sm.remote.address import Address, TlsAddress, UnixAddress
from sm.remote.server import HostServer
from sm.repository import Repository

logger = logging.getLogger(__name__)

WATCHED_SECONDS = 2.0
"""How often it sees to it that disks that grow are watched, in case all who do so were killed."""

GRACE_SECONDS = 30.0
"""For what is under way when told to stop. What then remains is as after a crash."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `sm-hostd`; the exit status is 0 when it was told to stop, 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="sm-hostd", description="Do for other hosts of the pool what only this one can do."
    )
    parser.add_argument("--root", type=Path, help="where all state lives (default: SM_ROOT)")
    options = parser.parse_args(arguments)
    told = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        told.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        settings = config.load(options.root)
        log.start(settings.log_target, settings.log_file)
        _serve(settings, told)
    except SmError as error:
        sys.stderr.write(f"sm-hostd: {error}\n{error.advice}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"sm-hostd: {error}\nSee 'host_listen' in sm.conf.\n")
        return 1
    return 0


def _serve(settings: Settings, told: threading.Event) -> None:
    """Answer until `told`; the address is in the host's record once others can be answered."""
    locks = Locks(settings.locks, settings.host_uuid, settings.lock_seconds)
    with (
        open_pool(settings, None) as pool,
        locks.hold("hostd", settings.host_uuid, "sm-hostd", seconds=0),
    ):
        if not isinstance(pool, PoolAdmin):
            raise InvalidArgument("with XAPI its plugin does this; see docs/hosts.md")
        server = _server(settings, pool)
        serving = threading.Thread(target=server.serve_forever, args=(0.1,), name="hostd")
        serving.start()
        try:
            pool.set_host_address(pool.this_host().ref, str(server.address))
            logger.info("answers at %s", server.address)
            _settle(settings, pool)
            watching.ensure(settings)
            while not told.wait(WATCHED_SECONDS):
                watching.ensure(settings)
            logger.info("told to stop")
        finally:
            server.stop(GRACE_SECONDS)
            release_folder(settings.run / "host", lambda: False)


def _settle(settings: Settings, pool: PoolAdmin) -> None:
    """Let the users of disks go on that an earlier `sm-hostd` held when it ended."""
    for attachment in Attachments(settings.run / "attached").all():
        sr_uuid = attachment.sr_uuid
        try:
            settle_all(Repository.open(sr_uuid, settings, pool))
        except (SmError, ImageError, OSError) as error:
            logger.warning("SR %s: %s", sr_uuid, error)


def _server(settings: Settings, pool: PoolAdmin) -> HostServer:
    address, context = _address(settings), None
    if isinstance(address, TlsAddress):
        if settings.credentials is None:
            raise InvalidArgument(f"{address} needs host_certificate, host_key, host_authority")
        from sm.remote.tls import server_context  # noqa: PLC0415 - only where TLS is used

        context = server_context(settings.credentials)
    return HostServer(address, partial(answer, settings, pool), context)


def _address(settings: Settings) -> Address:
    if settings.host_listen == "unix":
        return UnixAddress(socket_folder(settings.run / "host") / "hostd.sock")
    return addresses.parse(settings.host_listen)


if __name__ == "__main__":
    sys.exit(main())
