"""The one place where child processes start.

Each runs without a shell, in a process group of its own, with a time limit, with its output read
and never inherited, and ends when the caller is interrupted. Tools that only look at an untrusted
image also run under limits on CPU time and memory.
"""

from __future__ import annotations

import logging
import os
import resource
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sm.cowutil.base import ToolResult
from sm.errors import ToolFailed

log = logging.getLogger(__name__)

INSPECT_CPU_SECONDS = 30
INSPECT_ADDRESS_SPACE = 1 << 30
"""For tools that read the headers of an image: a crafted one must not eat the host."""

WORK_ADDRESS_SPACE = 4 << 30
"""For tools that move data; qemu-img needs far less, a runaway far more."""

EMPTY: Mapping[str, str] = {}

POLL_SECONDS = 0.2
TERM_GRACE_SECONDS = 5.0


Child = subprocess.Popen[bytes]
"""A process that was started and not waited for."""

StillRunning = subprocess.TimeoutExpired
"""What waiting for one raises when it takes too long."""


@dataclass
class _Output:
    stdout: bytearray
    stderr: bytearray


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    accept: Collection[int] = (0,),
    inspect: bool = False,
    watch: Callable[[str], None] | None = None,
    limited: bool = True,
    environment: Mapping[str, str] = EMPTY,
) -> ToolResult:
    """Run `argv` to its end; see `sm.cowutil.base.ToolRunner` for the arguments.

    Without `limited` it gets no limit on memory: for a tool that leaves a daemon behind. What
    `environment` says is added to our own.

    Raises `ToolFailed` when it cannot be started, exceeds `timeout` seconds, or ends with a status
    outside `accept`. Whatever `watch` raises ends the child and is passed on.
    """
    command = tuple(argv)
    log.debug("run: %s", " ".join(command))
    began = time.monotonic()
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
        )
    except OSError as error:
        raise ToolFailed(command, f"cannot be started: {error.strerror}") from error
    try:
        if limited:
            _limit(child.pid, inspect=inspect)
        output = _read_until_end(child, command, began + timeout, watch)
    except BaseException:
        _end(child)
        raise
    result = ToolResult(
        command,
        child.returncode,
        output.stdout.decode("utf-8", "replace"),
        output.stderr.decode("utf-8", "replace"),
    )
    log.debug("ended: %s: %d in %.3f s", command[0], result.code, time.monotonic() - began)
    if result.code not in accept:
        raise ToolFailed(command, _describe(result.code), result.stderr)
    return result


def spawn(argv: Sequence[str]) -> Child:
    """Start `argv` in the background, detached from this process; it goes on when we end."""
    log.debug("spawn: %s", " ".join(argv))
    try:
        return subprocess.Popen(
            tuple(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolFailed(tuple(argv), f"cannot be started: {error.strerror}") from error


def start_dependent(argv: Sequence[str]) -> Child:
    """Start a part of this program as a child that ends with us: our end of its input closes then.

    It is in a session of its own, so that a terminal interrupts us alone; what it says on standard
    error is ours to say.
    """
    log.debug("start: %s", " ".join(argv))
    try:
        return subprocess.Popen(
            tuple(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolFailed(tuple(argv), f"cannot be started: {error.strerror}") from error


def _limit(pid: int, *, inspect: bool) -> None:
    """Set limits from outside: code between fork and exec is unsafe in a threaded parent."""
    space = INSPECT_ADDRESS_SPACE if inspect else WORK_ADDRESS_SPACE
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (space, space))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        if inspect:
            cpu = (INSPECT_CPU_SECONDS, INSPECT_CPU_SECONDS + 1)
            resource.prlimit(pid, resource.RLIMIT_CPU, cpu)
    except ProcessLookupError:
        return  # ended already, within its limits


def _read_until_end(
    child: Child,
    command: tuple[str, ...],
    deadline: float,
    watch: Callable[[str], None] | None,
) -> _Output:
    output = _Output(bytearray(), bytearray())
    if child.stdout is None or child.stderr is None:
        raise ToolFailed(command, "has no output to read")
    with selectors.DefaultSelector() as selector, child.stdout, child.stderr:
        selector.register(child.stdout, selectors.EVENT_READ, output.stdout)
        selector.register(child.stderr, selectors.EVENT_READ, output.stderr)
        seen = 0
        while selector.get_map():
            for key, _ in selector.select(POLL_SECONDS):
                data = os.read(key.fd, 65536)
                if data:
                    key.data.extend(data)
                else:
                    selector.unregister(key.fileobj)
            if watch is not None:
                watch(output.stdout[seen:].decode("utf-8", "replace"))
                seen = len(output.stdout)
            if time.monotonic() > deadline:
                raise ToolFailed(command, "ran out of time", output.stderr.decode(errors="replace"))
    # Both pipes are closed, so only the exit itself is left.
    child.wait(max(POLL_SECONDS, deadline - time.monotonic()))
    return output


def _end(child: Child) -> None:
    """SIGTERM first, so that a tool can leave its image clean; SIGKILL when it does not go."""
    for number, grace in ((signal.SIGTERM, TERM_GRACE_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        try:
            child.wait(grace)
            break
        except subprocess.TimeoutExpired:
            log.warning("%s did not end on SIGTERM", child.args)
    child.wait()


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"
