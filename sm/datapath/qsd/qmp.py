"""QMP as plain calls with deadlines. The client below is asyncio; that ends here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qemu.qmp import ExecuteError, QMPClient, QMPError

from sm.datapath.base import DatapathFailed, OutcomeUnknown

SECONDS = 10.0
"""For one command. The daemon answers within milliseconds; a flush may take a while."""


class Qmp:
    """A connection to one daemon's monitor; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        for last in (False, False, True):
            self._client = QMPClient("sm")
            # The library logs every failed connection as an error; we raise it.
            self._client.logger.setLevel(logging.CRITICAL)
            try:
                self._loop.run_until_complete(
                    asyncio.wait_for(self._client.connect(str(self._path)), SECONDS)
                )
            except (QMPError, OSError, TimeoutError) as error:
                # An event that comes just as we connect is sent before the greeting (7.2), and
                # taken for it. Nothing has been asked yet, so connecting again is no second try.
                if "Greeting" in str(error) and not last:
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
