"""What the processes of the tests do: `python -m tests.pool.children WORK PLACE ...`."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sm.errors import DuplicateKey
from sm.pool.base import NewVdi
from sm.pool.embedded import EmbeddedPool
from tests.pool.conftest import HOST_UUID

KEYS = {f"key{number}": "x" * 500 for number in range(12)}
"""Enough for a transaction of several pages."""

PARENT = os.getppid()


def race(pool: EmbeddedPool, vdi: str, me: str, rounds: str, start: str) -> None:
    """Add the same keys as all others; print those that were added, and when ready."""
    pool.vdi(vdi)
    wait(Path(start))
    for number in range(int(rounds)):
        try:
            pool.add_to_vdi_sm_config(vdi, f"host_{number}", me)
        except DuplicateKey:
            continue
        print(number)


def introduce(pool: EmbeddedPool, sr: str, prefix: str, count: str) -> None:
    """Introduce VDIs with all of `KEYS`; print the UUID of each when it is there."""
    for number in range(int(count)):
        uuid = f"{prefix}-{number}"
        pool.introduce_vdi(NewVdi(uuid, sr, 1, sm_config=KEYS))
        print(uuid, flush=True)


def register(pool: EmbeddedPool, me: str, start: str, *places: str) -> None:
    """Be among the first users of one new database after the other; print our host's reference."""
    for number, place in enumerate(places):
        wait(Path(f"{start}-{number}"))
        with EmbeddedPool(place_of(place), me, "another") as made:
            print(made.this_host().ref, flush=True)


def publish(pool: EmbeddedPool, sr: str, me: str, rounds: str) -> None:
    """For each line that comes in, publish a key of ours, then look for those of others."""
    pool.sr(sr)
    print("ready", flush=True)
    for number in range(int(rounds)):
        sys.stdin.readline()
        pool.add_to_sr_sm_config(sr, f"{number}-{me}", "x")
        print(*(key for key in pool.sr(sr).sm_config if key.startswith(f"{number}-")), flush=True)


def wait(gate: Path) -> None:
    """Say that we are ready, and wait until all may go; give up when nobody says so."""
    print("ready", flush=True)
    while not gate.exists():
        if os.getppid() != PARENT:
            sys.exit("nobody is left to open the gate")
        time.sleep(0.001)


def read(pool: EmbeddedPool, sr: str, vdi: str) -> None:
    """Call everything that only reads."""
    pool.this_host(), pool.hosts(), pool.srs(), pool.pbds(sr), pool.vdis(sr), pool.tasks(sr)
    record = pool.vdi(vdi)
    pool.sr_by_uuid(pool.sr(record.sr).uuid)
    pool.vdi_by_uuid(record.uuid)
    pool.update_vdi(vdi, managed=record.managed, virtual_size=record.virtual_size)


def place_of(word: str) -> Path | str:
    """The path or URL that a word of the command line means."""
    return word if "://" in word else Path(word)


if __name__ == "__main__":
    work: dict[str, Callable[..., None]] = {
        "race": race,
        "introduce": introduce,
        "register": register,
        "publish": publish,
        "read": read,
    }
    with EmbeddedPool(place_of(sys.argv[2]), HOST_UUID, "here") as opened:
        work[sys.argv[1]](opened, *sys.argv[3:])
