"""Around a whole command: however it ends, the caller gets a status and words, no traceback."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from sm import log
from sm.cli.output import Output
from sm.cowutil.errors import ImageError
from sm.errors import Defect, Interrupted, InvalidArgument, SmError

EXIT_REFUSED = 1
"""Exit status of a command that was refused or failed; 3 is a damaged image."""

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

logger = logging.getLogger(__name__)


class UsageError(InvalidArgument):
    """The command line is wrong; `usage` says how it is right."""

    def __init__(self, detail: str, usage: str) -> None:
        super().__init__(detail)
        self.usage = usage


class Parser(argparse.ArgumentParser):
    """Raises where it would write and end the process itself."""

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`."""
        raise UsageError(message, f"{self.format_usage()}{self.prog}: error: {message}")


def guarded(output: Output, work: Callable[[], int | None]) -> int:
    """The exit status of `work`; a failure is said in words or as JSON."""
    _tolerate_any_text()
    try:
        status = work() or 0
        sys.stdout.flush()
    except UsageError as error:
        output.misused(error, error.usage)
        return EXIT_USAGE
    except SmError as error:
        output.failure(error)
    except BrokenPipeError:
        # The reader of our output has gone; what is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ImageError, OSError) as error:
        output.failure(SmError(str(error)))
    except KeyboardInterrupt:
        output.interrupted(Interrupted())
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - told, and kept with its traceback
        output.defect(Defect(f"{type(error).__name__}: {error}"), _kept(error))
    else:
        return status
    return EXIT_REFUSED


def _tolerate_any_text() -> None:
    """A name that the encoding of the terminal does not have is shown escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _kept(error: Exception) -> str:
    """Write the details of a defect down; returns where."""
    if log.place() is not None:
        logger.error("a defect", exc_info=error)
        return str(log.place())
    import tempfile  # noqa: PLC0415 - for once in a lifetime
    import traceback  # noqa: PLC0415

    descriptor, name = tempfile.mkstemp(prefix="sm-defect-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(traceback.format_exception(error))
    return name
