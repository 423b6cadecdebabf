"""Disks that a tapdisk serves, through the commands."""

from __future__ import annotations

from typing import Any

from tests.datapath.tapdisk.fixture import Tapdisk, closed_content, served_content
from tests.gc.active import ActiveScene
from tests.support.site import MIB, Site

IMAGES_LEFT = 3
"""Of a `run_scene`, when all is merged: the base, a snapshot and the disk."""


def configure(site: Site, tapdisk: Tapdisk, *, into_parent: bool = True, **options: object) -> None:
    """Have disks served by this tapdisk; with further options of `sm.conf`."""
    site.configure(
        datapath="tapdisk",
        tapdisk=tapdisk.binary,
        tapdisk_control=tapdisk.control,
        tapdisk_merges_into_parent="yes" if into_parent else "no",
        **options,
    )


def run_scene(site: Site, image_format: str, deleted: int = 2) -> ActiveScene:
    """So many deleted snapshots over the base of the chain, and another one that is kept.

    With one, the first image to be merged is below the disk's own; with two, below another.
    """
    scene = ActiveScene(site, image_format)
    kept = []
    for byte in range(1, deleted + 2):
        scene.write(byte * MIB, 2 * MIB + 4096, byte)
        kept.append(scene.snapshot())
    scene.write(0, 8192, 9)
    scene.delete(*kept[:deleted])
    return scene


def verify_served(scene: ActiveScene) -> None:
    """The disk in use reads as its guest wrote it."""
    assert served_content(scene.uri) == scene.models[scene.disk].data


def verify_at_rest(scene: ActiveScene) -> None:
    """All disks are right on the storage, with nothing open, for readers that are not ours."""
    for uuid, model in scene.models.items():
        assert closed_content(scene.site.chain(scene.sr, uuid)) == model.data


def verify_closed(scene: ActiveScene) -> None:
    """The disk is no longer in use, all read as they should, and every image is sound."""
    scene.verify()
    verify_at_rest(scene)


def merges(report: dict[str, Any]) -> list[int]:
    """How many images each merge took."""
    return [len(step["images"]) for step in report["done"] if step["action"] == "coalesce"]
