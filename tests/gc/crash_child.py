"""Collects an SR and kills itself with SIGKILL at the N-th journaled step, or the first called so.

usage: crash_child.py SR N [SPEED]        prints each step before it is taken

With `SPEED`, so many bytes per second are what a copy is thought to make before it is measured.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

from sm import config
from sm.gc.collector import Collector
from sm.gc.leaf_in_use import convergence
from sm.pool.open import open_pool
from sm.repository import Repository


def main() -> None:
    sr, stop_at = sys.argv[1:3]
    count = itertools.count(1)

    def observe(step: str) -> None:
        print(step, flush=True)
        if stop_at in (str(next(count)), step):
            os.kill(os.getpid(), signal.SIGKILL)

    if sys.argv[3:]:
        convergence.FIRST_SPEED = int(sys.argv[3])
    settings = config.load()
    repository = Repository.open(sr, settings, open_pool(settings, None), observe)
    collector = Collector(repository)
    with collector.alone():
        for _ in collector.run():
            pass


if __name__ == "__main__":
    main()
