"""A request that the collector of an SR let go of it: a file with the owner who asks.

It stands as long as its owner lives, so a collector that starts later sees it as well, and whoever
was killed holds nobody off.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sm.durable import write_file
from sm.kick import kick
from sm.owner import Owner

log = logging.getLogger(__name__)


@contextmanager
def collector_held_off(run: Path, sr_uuid: str, host: str, operation: str) -> Iterator[None]:
    """Have the collector of an SR stop its work and let go, for the block.

    It does so within seconds: take its lock to wait for that. `host` is this host's UUID.
    """
    owner = Owner.this_process(host, operation)
    path = run / "gc" / f"{sr_uuid}.{owner.pid}-{owner.started}.hold"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, owner.text.encode("utf-8"))
    try:
        kick(run, sr_uuid)
        yield
    finally:
        path.unlink(missing_ok=True)
        kick(run, sr_uuid)


def holder(run: Path, sr_uuid: str, host: str) -> Owner | None:
    """Who wants the collector of an SR to keep off, and lives; removes what the dead have left."""
    for path in sorted((run / "gc").glob(f"{sr_uuid}.*.hold")):
        try:
            owner = Owner.parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except ValueError as error:
            log.warning("%s is no request to hold off and is ignored: %s", path, error)
            continue
        if not owner.ended(host):
            return owner
        path.unlink(missing_ok=True)
    return None
