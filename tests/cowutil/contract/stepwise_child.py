"""Merges or pulls in steps that give back space; made to be killed.

usage: stepwise_child.py down|up IMAGE...        uppermost first, the last one is the other end
"""

from __future__ import annotations

import sys
from pathlib import Path

from sm.cowutil.base import ImageRef, Steps
from sm.cowutil.registry import Formats
from sm.process import run


def main() -> None:
    way, *names = sys.argv[1:]
    chain = [ImageRef(Path(name), Path(name).suffix[1:]) for name in names]
    images = Formats(run).cow(chain[0].format)
    steps = Steps(give_back=True, length=1)
    if way == "down":
        images.coalesce(chain, len(chain) - 1, steps=steps)
    else:
        images.pull(chain, len(chain) - 1, steps=steps)


if __name__ == "__main__":
    main()
