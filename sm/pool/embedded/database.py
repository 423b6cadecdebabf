"""What the embedded pool asks of a database, whichever program keeps it.

Statements are written in the SQL that all of them understand, with `?` where a value goes; what
differs is in `schema` and in the database itself. Its errors come out as ours.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from sm.errors import PoolError

Value = str | int | float


class Row(Protocol):
    """A row that was found, by names of columns; `dict(row)` has them all."""

    def __getitem__(self, name: str, /) -> Any: ...

    def keys(self) -> Iterable[str]:
        """The names of the columns."""


class Result(Protocol):
    """What a statement found or did."""

    @property
    def rowcount(self) -> int:
        """How many rows a statement changed."""

    def fetchone(self) -> Any:
        """The next row, or None."""

    def __iter__(self) -> Iterator[Any]: ...


class Transaction(Protocol):
    """A transaction that is open."""

    def execute(self, statement: str, values: Sequence[Value] = (), /) -> Result:
        """Carry out a statement with `values` for its marks."""


class RuleBroken(PoolError):
    """A write ran into a rule of the tables; nothing of its transaction is done."""


class NotUnique(RuleBroken):
    """There is a row with this key, or with a value that must be the only one."""


class OwnerMissing(RuleBroken):
    """The row that a new one belongs to is not there."""


class Database(ABC):
    """A database, connected to at first use; its tables made, or brought up to date, if need be.

    A process has one connection, on which its threads take turns. It is closed before a fork,
    because what belongs to a connection must not be inherited; both sides connect anew.
    """

    def __init__(self) -> None:
        self._turn = threading.RLock()
        os.register_at_fork(
            before=_weakly(self._before_fork),
            after_in_parent=_weakly(self._turn_release),
            after_in_child=_weakly(self._turn_release),
        )

    @abstractmethod
    def close(self) -> None:
        """Close the connection, if there is one."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[Transaction]:
        """All queries inside see the same moment. Never waits for a writer, never writes."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[Transaction]:
        """A transaction that is committed at the end, or rolled back by an exception.

        Raises `RuleBroken` for what the tables do not allow.
        """

    def _before_fork(self) -> None:
        self._turn.acquire()
        self.close()

    def _turn_release(self) -> None:
        self._turn.release()


def fields_of(row: Row) -> dict[str, Any]:
    """All columns of a row."""
    return {name: row[name] for name in row.keys()}  # noqa: SIM118 - rows of SQLite iterate values


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """`method`, called only while its object lives: what is registered at fork stays for ever."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        found = reference()
        if found is not None:
            found()

    return call
