"""What a reading of one image may cost: declared limits of the readers.

Each is about twice what the dearest image of the corpus was seen to cost; the largest table that is
allowed, an L1 table of 32 MiB with four million entries, is read once and by no loop over them.
"""

from __future__ import annotations

from tests.hostile.cost import Cost

OF_A_REFUSAL = Cost(lines=30_000, reads=300, bytes_read=48 << 20)
"""Of any reading that refuses, and of one that takes an image as sound."""

OF_A_REPORT = Cost(lines=2_500_000, reads=1_200, bytes_read=192 << 20)
"""A check that reports is no refusal: it goes on to the end, over 65,536 snapshots."""

MEMORY = 64 << 20
"""Bytes, for all readings of an image."""
