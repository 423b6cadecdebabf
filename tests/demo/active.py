"""A disk in use: its guest writes and checks its own data through snapshot, delete and merging."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.datapath.clients import Writer, content

if TYPE_CHECKING:
    from tests.demo.run import Demo

SIZE = 64 << 20
SECONDS = 0.5
"""How long the guest works between two things that happen to its disk."""


def show(demo: Demo, sr: str, image_format: str) -> None:
    """One active disk's life; what does not hold is added to `demo.broken`."""
    demo.say(f"\n== A disk in {image_format.upper()}, in use all the time")
    created = ("--size", "64MiB", "--format", image_format, "--name", f"db-{image_format}")
    vdi = demo.sm("vdi", "create", "--sr", sr, *created)["uuid"]
    active = demo.sm("vdi", "activate", f"db-{image_format}")
    demo.say(f"    {active['nbd']}")
    demo.say(f"    served by process {active['pid']} ({active['datapath']})")
    try:
        same = _live(demo, sr, image_format, active["nbd"])
    finally:
        demo.sm("vdi", "deactivate", f"db-{image_format}")
    good = demo.sm("vdi", "check", f"db-{image_format}")["good"]
    demo.say(f"  images: {'good' if good else 'DAMAGED'}")
    if not (same and good):
        demo.broken.append(f"{vdi} (db-{image_format})")
    demo.sm("vdi", "delete", f"db-{image_format}", show=False)


def _live(demo: Demo, sr: str, image_format: str, uri: str) -> bool:
    """The guest's work; whether its whole disk is as it should be in the end."""
    with Writer(uri, bytes(SIZE)) as guest:
        for name in ("first", "second"):
            _work(demo, guest)
            demo.sm("vdi", "snapshot", f"db-{image_format}", "--name", f"{name}-{image_format}")
        _work(demo, guest)
        demo.sm("vdi", "delete", f"first-{image_format}")
        demo.tree(f"db-{image_format}")
        demo.collect(sr)
        _work(demo, guest)
        demo.say("  without its last snapshot, the disk's own image is merged while it is written:")
        demo.sm("vdi", "delete", f"second-{image_format}")
        demo.collect(sr)
        _work(demo, guest)
        demo.tree(f"db-{image_format}")
    same = content(uri, SIZE) == guest.data
    word = "same" if same else "DIFFERENT"
    demo.say(f"  the guest made {guest.rounds} writes, each read back; its whole disk: {word}")
    return same


def _work(demo: Demo, guest: Writer) -> None:
    before = guest.rounds
    time.sleep(SECONDS)
    demo.say(f"  ... the guest writes and checks, {guest.rounds - before} times")
