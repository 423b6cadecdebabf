"""Collects an SR and kills itself with SIGKILL at the N-th journaled step, or the first called so.

usage: crash_child.py SR N [SPEED]        prints each step before it is taken

With `SPEED`, so many bytes per second are what a copy is thought to make before it is measured.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable

from sm import config
from sm.gc.collector import Collector
from sm.gc.leaf_in_use import convergence
from sm.pool.open import open_pool
from sm.repository import Repository


def collect(sr: str, stop_at: str, say: Callable[[str], None], speed: int = 0) -> int:
    """Collect an SR, and end this process at a step; returns 0 where it came to the end."""
    count = itertools.count(1)

    def observe(step: str) -> None:
        say(step)
        if stop_at in (str(next(count)), step):
            os.kill(os.getpid(), signal.SIGKILL)

    if speed:
        convergence.FIRST_SPEED = speed
    settings = config.load()
    repository = Repository.open(sr, settings, open_pool(settings, None), observe)
    collector = Collector(repository)
    with collector.alone():
        for _ in collector.run():
            pass
    return 0


def main() -> int:
    sr, stop_at = sys.argv[1:3]
    speed = int(sys.argv[3]) if sys.argv[3:] else 0
    return collect(sr, stop_at, lambda step: print(step, flush=True), speed)


if __name__ == "__main__":
    sys.exit(main())
