"""Reads and changes mutated images for as long as it is told to; only typed errors may come out.

    python -m tests.hostile.fuzz --seconds 3600
    python -m tests.hostile.fuzz --first 4711 --count 1

A failure is a traceback with the seed, which gives the same image again.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from sm.cowutil.base import CowUtil
from sm.cowutil.errors import ImageError
from sm.cowutil.registry import Formats
from sm.process import run
from tests.hostile.mutator import mutant, originals
from tests.hostile.reading import READINGS

WRITABLE = 1 << 28
"""Only files of at most so many bytes are changed too: a copy of a larger one takes too long."""

STEP = 2 << 20
MEMORY = Path("/dev/shm")


def try_one(seed: int, formats: Formats, sources: list[tuple[str, bytes]], folder: Path) -> bool:
    """Read mutant `seed` in every way and change a copy; whether every reading accepted it.

    Anything but an `ImageError`, and a reading that changes the file, is raised.
    """
    made = mutant(seed, sources)
    path = folder / f"mutant.{made.format}"
    made.write(path)
    path.chmod(0o444)
    before = path.stat()
    accepted = True
    for read in READINGS.values():
        try:
            report = read(formats, made.format, path)
        except ImageError:
            accepted = False
        else:
            accepted = accepted and not (report and report.corruptions)
    after = path.stat()
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise AssertionError("a read wrote")
    if made.length <= WRITABLE:
        change(formats.cow(made.format), path, path.with_name(f"changed.{made.format}"))
    path.unlink()
    return accepted


def change(images: CowUtil, path: Path, copy: Path) -> None:
    """What the storage manager may do to an image before it knows that it is damaged."""
    changes: list[Callable[[], object]] = [
        lambda: images.set_hidden(copy, hidden=True),
        lambda: images.set_hidden(copy, hidden=False),
    ]
    if images.name == "vhd":  # natively; what qemu-img does to a QCOW2 is its own affair
        changes += [
            lambda: images.resize(copy, images.info(copy).virtual_size + STEP),
            lambda: images.repair(copy),
        ]
    shutil.copyfile(path, copy)
    for each in changes:
        try:
            each()
        except ImageError:
            continue
    copy.unlink()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, help="how many seeds; else until the time is up")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--address-space", type=int, help="bytes that this process may take")
    options = parser.parse_args(arguments)
    formats, outcome = Formats(run), Counter[bool]()
    deadline = time.monotonic() + options.seconds
    # In memory where there is such a place: changes are synced, and nobody wants these kept.
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        sources = originals(Path(folder))
        if options.address_space:  # only now: qemu-img, which made these, needs more
            limit = (options.address_space, options.address_space)
            resource.setrlimit(resource.RLIMIT_AS, limit)
        for seed in itertools.count(options.first):
            done = seed - options.first
            if done == options.count or time.monotonic() > deadline:
                break
            try:
                outcome[try_one(seed, formats, sources, Path(folder))] += 1
            except Exception as error:
                error.add_note(f"mutant of seed {seed}")
                raise
    print(f"{outcome[False]} refused, {outcome[True]} accepted")


if __name__ == "__main__":
    main(sys.argv[1:])
