"""One of our programs in a fork of the test: all is loaded there, and it starts at once.

To be started as a process takes a program many times as long as what it does, in a guest most of
all. That a program starts, alone and with nothing but what XAPI gives it, is shown by
`tests/test_plugin.py` and `tests/test_packaging.py`.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from io import BufferedReader, BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from typing import IO, NoReturn

from tests.support.patience import patient

BROKEN = 1
"""What Python ends with after an exception that nobody caught."""


def program(
    name: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run the program of that name to its end; it has these variables and no others."""
    (entry,) = entry_points(group="console_scripts", name=name)
    main = entry.load()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        # What the collector of garbage looks at is copied; the child has little of its own.
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            if folder is not None:
                os.chdir(folder)
            _become([name, *arguments], environment, output, errors, main)
        gc.unfreeze()
        _, status = os.waitpid(pid, 0)
        said = []
        for file in (output, errors):
            file.seek(0)
            said.append(file.read())
    return subprocess.CompletedProcess(
        [name, *arguments], os.waitstatus_to_exitcode(status), said[0], said[1]
    )


def _become(
    argv: list[str],
    environment: Mapping[str, str],
    output: IO[bytes],
    errors: IO[bytes],
    main: Callable[[], object],
) -> NoReturn:
    """Be that program, in a fork; never returns."""
    status = BROKEN
    try:
        signal.alarm(int(patient(120)))
        os.environ.clear()
        os.environ.update(environment)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, number in ((nothing, 0), (output.fileno(), 1), (errors.fileno(), 2)):
            os.dup2(descriptor, number)
        sys.argv = argv
        sys.stdin, sys.stdout, sys.stderr = (
            TextIOWrapper(buffer(FileIO(number, mode, closefd=False)), write_through=number > 0)
            for number, mode, buffer in (
                (0, "rb", BufferedReader),
                (1, "wb", BufferedWriter),
                (2, "wb", BufferedWriter),
            )
        )
        ended = main()
        status = ended if isinstance(ended, int) else 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
