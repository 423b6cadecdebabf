"""Work on parts of a whole in threads: reading and numpy let others go on meanwhile.

A scan of tables is bound by memory, of which one core uses about half of what two can. Parts are
contiguous, so results in their order are results in the order of the whole.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

MOST = 2
"""Threads at most: a third one gains little, and each needs memory of its own."""

Part = tuple[int, int]
"""A half-open range of numbers."""

Result = TypeVar("Result")


def parts(count: int, smallest: int) -> list[Part]:
    """`count` numbers in as many parts as threads are worth it, each of `smallest` at least."""
    usable = min(MOST, len(os.sched_getaffinity(0)), max(1, count // smallest))
    edges = [count * number // usable for number in range(usable + 1)]
    return list(pairwise(edges))


def each(work: Callable[[Part], Result], of: Sequence[Part]) -> list[Result]:
    """`work` of each part, in order. What it raises is raised, of the first part that did."""
    results: dict[int, Result] = {}
    failures: dict[int, BaseException] = {}

    def one(number: int) -> None:
        try:
            results[number] = work(of[number])
        except BaseException as error:  # noqa: BLE001 - raised again below, by the caller's thread
            failures[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, len(of))]
    for thread in threads:
        thread.start()
    one(0)
    for thread in threads:
        thread.join()
    if failures:
        failure = failures[min(failures)]
        # An error keeps the frames that it went through, and what these name: all that was read.
        failures.clear()
        try:
            raise failure
        finally:
            del failure
    return [results[number] for number in range(len(of))]
