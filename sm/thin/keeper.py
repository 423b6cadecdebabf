"""`python -m sm.thin.keeper`: sees to it that the disks of this host that grow are watched.

The watcher is forked, not started: when it is killed, the next one is there within milliseconds,
and its disks are paced by how soon it acts. Who is killed here is replaced by the watcher. Both end
when no such disk is left.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import filelock

from sm import config, log, watching
from sm.config import Settings
from sm.datapath.choose import Datapaths
from sm.datapath.qsd import gauge as _qsd_gauge
from sm.errors import LockFailed, SmError
from sm.locks import Locks
from sm.thin import watcher

logger = logging.getLogger(__name__)

PRELOADED = (_qsd_gauge, filelock)
"""What is imported late elsewhere, and would make a new watcher slow."""

LOCK_SECONDS = 5.0
"""For another keeper, which is about to end, to do so."""

YOUNG_SECONDS = 1.0
"""A watcher that ended before that is not replaced before that."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep a watcher; the exit status is 0 unless there was an error."""
    parser = argparse.ArgumentParser(prog="sm-thin", description="Watch disks that grow.")
    parser.add_argument("--root", type=Path, help="where all state lives (default: SM_ROOT)")
    options = parser.parse_args(arguments)
    try:
        settings = config.load(options.root)
        log.start(settings.log_target, settings.log_file)
        locks = Locks(settings.locks, settings.host_uuid, settings.lock_seconds)
        with locks.hold("thin", settings.host_uuid, "thin", seconds=LOCK_SECONDS):
            _keep(settings)
    except LockFailed:
        return 0  # another one does it
    except (SmError, OSError) as error:
        logger.error("the keeper ends: %s", error)
        return 1
    return 0


def _keep(settings: Settings) -> None:
    # Before the first fork, so that no child has to do it.
    _ = Datapaths(settings).kinds
    note = watching.keeper_note(settings)
    while True:
        watching.sign(settings, note)
        while _watched_to_the_end(settings) != 0:
            continue
        note.unlink(missing_ok=True)
        if not watching.growing(settings):
            return


def _watched_to_the_end(settings: Settings) -> int:
    """One watcher from its beginning to its end; returns how it ended, 0 for having no disk."""
    began = time.monotonic()
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        watcher.run_in_child(settings, ours)
    os.close(ours)
    logger.info("thin disks are watched by process %d", child)
    try:
        _, status = os.waitpid(child, 0)
    finally:
        os.close(theirs)
    code = os.waitstatus_to_exitcode(status)
    if code:
        said = f"status {code}" if code > 0 else signal.Signals(-code).name
        logger.warning("the watcher of thin disks ended with %s; another one follows", said)
        if code > 0:
            time.sleep(max(0.0, began + YOUNG_SECONDS - time.monotonic()))
    return code


if __name__ == "__main__":
    sys.exit(main())
