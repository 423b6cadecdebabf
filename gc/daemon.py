"""`sm-gc`: collects the SRs of this host, or one SR, once or until told to stop.

Without `--sr` it looks after one worker for each SR (`sm.gc.service.supervisor`), which is this
program again with `--sr`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sm import config, log
from sm.attachment import Attachments
from sm.config import Settings
from sm.errors import LockFailed, SmError
from sm.gc.collector import Collector
from sm.gc.service.conditions import Leave, LetGo
from sm.gc.service.supervisor import Supervisor
from sm.gc.service.worker import Mode, Setting, Worker
from sm.hold import holder
from sm.pool.base import Pool
from sm.pool.open import open_pool
from sm.repository import Repository

logger = logging.getLogger(__name__)

HARD_STOP_SECONDS = 1.7
"""From SIGTERM to the end of the process, come what may: what it leaves is as after a crash."""

SUPERVISOR_STOP_SECONDS = 4.0
"""The same for the supervisor, which waits for its workers; those that it leaves end as well."""

LOCK_SECONDS = 5.0
"""For a service's worker, or who only mends, to become the only collector of its SR."""

HOLD_POLL_SECONDS = 0.2

SUPERVISED_STDIN = 0

CRASH_STATUS = 3
"""Exit status after work that came to no safe point."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `sm-gc`; the exit status is 0 when all went well, 1 after an error.

    It is `CRASH_STATUS` when work was left as by a crash, because somebody else wanted the SR.
    """
    options = _parser().parse_args(arguments)
    try:
        settings = config.load(options.root)
        log.start(settings.log_target, settings.log_file)
        stop = _Stop()
        with open_pool(settings, None) as pool:
            if options.sr is None:
                supervisor = Supervisor(settings, pool)
                stop.on(supervisor.stop, SUPERVISOR_STOP_SECONDS)
                with _figures(settings):
                    supervisor.run()
                return 0
            with log.about(sr=options.sr):
                _one(options, settings, pool, stop)
    except SmError as error:
        sys.stderr.write(f"sm-gc: {error}\n{error.advice}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"sm-gc: {error}\n")
        return 1
    return 0


@contextmanager
def _figures(settings: Settings) -> Iterator[None]:
    """Give figures to Prometheus meanwhile, where the settings say so."""
    if not settings.gc_metrics_listen:
        yield
        return
    # Slow to import, and only this one process needs it.
    from sm.gc.views.exporter import Address, serve  # noqa: PLC0415

    with serve(settings, Address.parse(settings.gc_metrics_listen)) as address:
        logger.info("figures for Prometheus at %s", address)
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sm-gc", description="Delete and merge the images of an SR that no disk needs."
    )
    parser.add_argument("--root", type=Path, help="where all state lives (default: SM_ROOT)")
    parser.add_argument(
        "--sr", metavar="UUID", help="one SR, attached here; without it, all of which this host is"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="work until nothing is left, then end")
    how.add_argument("--recover", action="store_true", help="only mend what was interrupted")
    how.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    return parser


class _Stop:
    """What SIGTERM and SIGINT do: `told` is set, and whoever asked to be told is."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self._call: Callable[[], None] | None = None
        self._seconds = HARD_STOP_SECONDS
        signal.signal(signal.SIGTERM, self._heard)
        signal.signal(signal.SIGINT, self._heard)

    def on(self, call: Callable[[], None], seconds: float = HARD_STOP_SECONDS) -> None:
        """Have `call` called; the process ends `seconds` after that at the latest."""
        self._call, self._seconds = call, seconds
        if self.told.is_set():
            call()

    def crash(self) -> None:
        """End at once, and leave everything as a crash does."""
        os._exit(0 if self.told.is_set() else CRASH_STATUS)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if not self.told.is_set():
            last = threading.Timer(self._seconds, os._exit, (0,))
            last.daemon = True
            last.start()
        self.told.set()
        if self._call is not None:
            self._call()


def _one(options: argparse.Namespace, settings: Settings, pool: Pool, stop: _Stop) -> None:
    repository = Repository.open(options.sr, settings, pool)
    if options.recover or options.once:
        collector = Collector(repository, crash=stop.crash)
        stop.on(collector.stop)
        if options.recover:
            _recover(collector)
            return
        with collector.alone():
            for step in collector.run():
                logger.info("%s in %.1f s", step.done.action, step.seconds)
        for waiting in collector.waiting():
            logger.info("waiting: %s: %s: %s", waiting.image, waiting.code, waiting.reason)
        return
    _serve(repository, stop, supervised=options.supervised)


def _recover(collector: Collector) -> None:
    """Mend what was interrupted, unless a collector that began in this moment does."""
    try:
        with collector.alone(LOCK_SECONDS):
            collector.recover()
    except LockFailed as error:
        logger.info("left to another collector: %s", error)


def _serve(repository: Repository, stop: _Stop, *, supervised: bool) -> None:
    """Collect until told to stop, or until the SR is not this host's to collect any more."""
    settings = repository.settings
    while not stop.told.is_set():
        setting = Setting(
            Mode.SERVICE,
            quiet_seconds=_quiet_seconds(repository) if supervised else 0.0,
            parent=SUPERVISED_STDIN if supervised else None,
            crash=stop.crash,
        )
        worker = Worker(repository, setting)
        stop.on(worker.stop)
        try:
            with Collector(repository).alone(LOCK_SECONDS):
                for job in worker.run():
                    logger.debug("job %s has ended", job.id)
            return
        except LetGo as error:
            logger.info("lets go: %s", error.detail)
            if error.leave is not Leave.HELD_OFF:
                return
        while not stop.told.is_set() and holder(settings.run, repository.uuid, settings.host_uuid):
            worker.live()
            time.sleep(HOLD_POLL_SECONDS)
        try:
            repository.require_attached()
        except SmError:
            return


def _quiet_seconds(repository: Repository) -> float:
    """How much is left of the quiet time after the attach; all of it where the clock was ahead."""
    quiet = repository.settings.gc_quiet_seconds
    attached = Attachments(repository.settings.run / "attached").since(repository.uuid)
    return min(quiet, max(0.0, attached + quiet - time.time()))


if __name__ == "__main__":
    sys.exit(main())
