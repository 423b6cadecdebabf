"""`sm-gc`: collect one SR once, or go on until told to stop."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from sm import config, log
from sm.cowutil.errors import Cancelled
from sm.errors import SmError, SrUnavailable
from sm.gc.collector import Collector
from sm.kick import short_address, socket_path
from sm.pool.open import open_pool
from sm.repository import Repository

logger = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 300.0
"""How long to wait for a kick before looking anyway."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `sm-gc`; the exit status is 0 when all went well, 1 after an error."""
    options = _parser().parse_args(arguments)
    settings = config.load(options.root)
    log.start(settings.log_target, settings.log_file)
    signal.signal(signal.SIGTERM, _cancel)
    signal.signal(signal.SIGINT, _cancel)
    try:
        with open_pool(settings, None) as pool:
            repository = Repository.open(options.sr, settings, pool)
            if options.recover:
                _recover(repository)
            elif options.once:
                _collect(repository)
            else:
                _loop(repository)
    except Cancelled:
        logger.info("told to stop")
    except SmError as error:
        sys.stderr.write(f"sm-gc: {error}\n{error.advice}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sm-gc", description="Delete and merge the images of an SR that no disk needs."
    )
    parser.add_argument("--root", type=Path, help="where all state lives (default: SM_ROOT)")
    parser.add_argument("--sr", required=True, metavar="UUID", help="the SR, attached here")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="work until nothing is left, then end")
    how.add_argument("--recover", action="store_true", help="only mend what was interrupted")
    return parser


def _cancel(number: int, frame: FrameType | None) -> None:
    raise Cancelled(signal.Signals(number).name)


def _recover(repository: Repository) -> None:
    collector = Collector(repository)
    with collector.alone():
        collector.recover()


def _collect(repository: Repository) -> None:
    collector = Collector(repository)
    with collector.alone():
        for step in collector.run():
            logger.info("%s in %.1f s", step.done.action, step.seconds)
    for waiting in collector.waiting():
        logger.info("waiting: %s: %s: %s", waiting.image, waiting.code, waiting.reason)


def _loop(repository: Repository) -> None:
    with _listening(socket_path(repository.settings.run, repository.uuid)) as kicks:
        while True:
            try:
                _collect(repository)
            except SrUnavailable as error:
                logger.info("the end: %s", error)
                return
            kicks.settimeout(LOOK_AGAIN_SECONDS)
            with contextlib.suppress(TimeoutError):
                kicks.recv(64)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as kicks:
        with short_address(path) as address:
            kicks.bind(address)
        try:
            yield kicks
        finally:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
