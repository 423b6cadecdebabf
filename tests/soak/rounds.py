"""How many rounds of a random test are run: few by default, more with SM_ROUNDS."""

from __future__ import annotations

import os
import random

SEED = int(os.environ.get("SM_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
"""Of all randomness here; printed, so that a run can be repeated."""


def rounds(usual: int) -> int:
    """`usual`, or what SM_ROUNDS says."""
    return int(os.environ.get("SM_ROUNDS", usual))


SOAK = rounds(1) > 1
"""Whether there is time for all, where a test usually has a choice of it."""
