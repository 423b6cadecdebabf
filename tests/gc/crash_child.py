"""Collects an SR and kills itself with SIGKILL at the N-th journaled step.

usage: crash_child.py SR N        prints each step before it is taken
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

from sm import config
from sm.gc.collector import Collector
from sm.pool.open import open_pool
from sm.repository import Repository


def main() -> None:
    sr, stop_at = sys.argv[1], int(sys.argv[2])
    count = itertools.count(1)

    def observe(step: str) -> None:
        print(step, flush=True)
        if next(count) == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = config.load()
    repository = Repository.open(sr, settings, open_pool(settings, None), observe)
    collector = Collector(repository)
    with collector.alone():
        for _ in collector.run():
            pass


if __name__ == "__main__":
    main()
