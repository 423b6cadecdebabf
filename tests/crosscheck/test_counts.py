"""That the number of images which documents quote is no exaggeration."""

from __future__ import annotations

from tests.crosscheck import counts
from tests.crosscheck.qcow2_chains import chain_depth


def test_so_many_images_are_compared() -> None:
    """Where an image may or may not have a child, only the one is counted."""
    chains = sum(map(chain_depth, range(counts.QCOW2_CHAINS)))
    chains += sum(map(chain_depth, range(counts.VHD_CHAINS)))
    others = counts.QCOW2_PACKED + 2 * counts.QCOW2_WRITTEN + counts.QCOW2_DAMAGED
    assert chains + others + counts.VHD_FOREIGN + counts.VHD_OF_QEMU >= counts.IMAGES
