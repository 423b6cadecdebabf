"""Which locks are taken while others are held: recorded in many processes, judged afterwards.

Two processes that each wait for what the other holds must have taken locks in two orders. So with
no circle among all orders that were ever seen, the run cannot have been about to deadlock anywhere.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sm.locks import Locks

Order = tuple[str, str]
"""Two locks, `space` or `space name`: the second was taken while the first was held."""


def record(path: Path) -> None:
    """From now on, write each new order of this process to `path`, a line of JSON each."""
    seen: set[tuple[str, str, str, str]] = set()
    mine = threading.local()
    guard = threading.Lock()
    real = Locks.hold

    @contextmanager
    def hold(
        self: Locks, space: str, name: str, operation: str, *, seconds: float | None = None
    ) -> Iterator[None]:
        held: list[tuple[str, str]] = mine.__dict__.setdefault("held", [])
        # Before it is taken: a run that stands still has not got it.
        if (space, name) not in held:
            with guard:
                new = {(*one, space, name) for one in held} - seen
                seen.update(new)
                if new:
                    with path.open("a", encoding="utf-8") as file:
                        file.writelines(json.dumps(order) + "\n" for order in sorted(new))
        with real(self, space, name, operation, seconds=seconds):
            held.append((space, name))
            try:
                yield
            finally:
                held.remove((space, name))

    Locks.hold = hold  # type: ignore[method-assign]


def orders(paths: Iterable[Path]) -> set[Order]:
    """All orders of all processes, between kinds of locks; of one kind, between single ones."""
    found: set[Order] = set()
    for path in paths:
        if not path.exists():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            space, name, next_space, next_name = json.loads(line)
            if space == next_space:
                found.add((f"{space} {name}", f"{space} {next_name}"))
            else:
                found.add((space, next_space))
    return found


def circle(found: Iterable[Order]) -> list[str]:
    """Locks that are taken in a circle; empty when there is none."""
    after: dict[str, set[str]] = {}
    for first, second in found:
        after.setdefault(first, set()).add(second)
    done: set[str] = set()

    def visit(lock: str, way: list[str]) -> list[str]:
        if lock in way:
            return [*way[way.index(lock) :], lock]
        if lock in done:
            return []
        for following in sorted(after.get(lock, ())):
            if seen := visit(following, [*way, lock]):
                return seen
        done.add(lock)
        return []

    for lock in sorted(after):
        if seen := visit(lock, []):
            return seen
    return []
