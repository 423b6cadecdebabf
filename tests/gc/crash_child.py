"""Collects an SR, and tells each journaled step before it is taken.

usage: crash_child.py SR        prints the steps
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


def collect(sr: str, say: Callable[[str], None], kill_at: int | str = 0, speed: int = 0) -> int:
    """Collect an SR; returns 0.

    With `kill_at`, this process is killed with SIGKILL at its N-th step, from 1 on, or at the first
    that is called so. `speed`: the bytes per second that a copy is thought to make before it is
    measured; 0 for what is usual.
    """
    count = itertools.count(1)

    def observe(step: str) -> None:
        say(step)
        if kill_at in (next(count), step):
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
    return collect(sys.argv[1], lambda step: print(step, flush=True))


if __name__ == "__main__":
    sys.exit(main())
