"""QMP as plain calls with deadlines. The client below is asyncio; that ends here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qemu.qmp import (
    ConnectError,
    EventListener,
    ExecuteError,
    Message,
    QMPClient,
    QMPError,
    Runstate,
)
from qemu.qmp.qmp_client import GreetingError, NegotiationError

from sm.datapath.base import DatapathFailed, OutcomeUnknown

SECONDS = 10.0
"""For one command. The daemon answers within milliseconds; a flush may take a while."""

ATTEMPTS = 5
"""At connecting while a job sends its events."""


class _Client(QMPClient):
    """The library's client, which writes out each message for its log even if nobody keeps that.

    For what a daemon says of a deep chain that takes longer than all else together.
    """

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return msg


class Qmp:
    """A connection to one daemon's monitor; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        for attempt in range(ATTEMPTS):
            self._client = _Client("sm")
            # The library logs every failed connection as an error; we raise it.
            self._client.logger.setLevel(logging.CRITICAL)
            try:
                self._loop.run_until_complete(
                    asyncio.wait_for(self._client.connect(str(self._path)), SECONDS)
                )
            except (QMPError, OSError, TimeoutError) as error:
                if _disturbed(error) and attempt + 1 < ATTEMPTS:
                    continue
                self._loop.close()
                raise OutcomeUnknown(f"{self._path} cannot be reached: {error}") from error
            break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._loop.run_until_complete(asyncio.wait_for(self._disconnect(), SECONDS))
        finally:
            self._loop.close()

    async def _disconnect(self) -> None:
        try:
            await self._client.disconnect()
        except (QMPError, EOFError, OSError) as error:
            # The daemon left first, which is how it answers `quit`.
            logging.getLogger(__name__).debug("%s: %s", self._path, error)

    def listen(self, event: str) -> None:
        """Keep events of this name for `event_came` from now on."""
        self._listener = EventListener(event)
        self._client.register_listener(self._listener)

    def event_came(self, seconds: float) -> bool:
        """Wait for an event that is listened for, or so long; takes out all that there are.

        Raises `OutcomeUnknown` when the daemon has left.
        """
        listener = self._listener

        async def first() -> None:
            await asyncio.wait_for(listener.get(), seconds)

        try:
            self._loop.run_until_complete(first())
        except TimeoutError:
            if self._client.runstate is not Runstate.RUNNING:
                raise OutcomeUnknown(f"{self._path}: the daemon has left") from None
            return False
        listener.clear()
        return True

    def call(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Execute one command; returns what it answers.

        Raises `DatapathFailed` when the daemon refuses, `OutcomeUnknown` when no answer comes.
        """
        try:
            return self._loop.run_until_complete(
                asyncio.wait_for(self._client.execute(command, arguments), SECONDS)
            )
        except ExecuteError as error:
            raise DatapathFailed(f"{command}: {error}") from error
        except (QMPError, OSError, TimeoutError) as error:
            raise OutcomeUnknown(f"{command}: {type(error).__name__} {error}") from error


def _disturbed(error: Exception) -> bool:
    """Whether an event came in the middle of the greetings, and was taken for one (7.2).

    Nothing has been asked yet by then, so connecting again is no second try.
    """
    return isinstance(error, ConnectError) and isinstance(
        error.exc, (GreetingError, NegotiationError)
    )
