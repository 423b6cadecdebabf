"""Copying in the background: work that takes the disk and the processor only when nobody else does.

Only a thread that copies and the children that it starts are so: whoever holds a lock must not be
kept waiting by a guest.
"""

from __future__ import annotations

import contextvars
import ctypes
import logging
import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Value = TypeVar("Value")

IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
"""Number of the system call by machine, from the kernel's tables; the C library has no name."""

IOPRIO_WHO_PROCESS = 1
IOPRIO_CLASS_IDLE = 3 << 13
"""linux/ioprio.h: the class is above 13 bits of data, which the idle class does not use."""

LOWEST_PRIORITY = 19


def in_background(work: Callable[[], Value]) -> Value:
    """Do `work` in a thread of its own, with idle I/O and the lowest CPU priority.

    A thread of its own, because without privilege the CPU priority can never be raised again. Child
    processes inherit both from the thread that starts them.
    """
    task = _Task(work)
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(task.run), name="copy", daemon=True)
    thread.start()
    thread.join()
    return task.result()


class _Task(Generic[Value]):
    def __init__(self, work: Callable[[], Value]) -> None:
        self._work = work
        self._values: list[Value] = []
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            _be_modest()
            self._values.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for it
            self._failure = error

    def result(self) -> Value:
        if self._failure is not None:
            raise self._failure
        return self._values[0]


def _be_modest() -> None:
    """Lower the calling thread, on Linux of a machine that we know the system call of."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
    number = IOPRIO_SET.get(os.uname().machine)
    if number is None:
        log.debug("the I/O class is left as it is on %s", os.uname().machine)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE) != 0:
        log.warning("the I/O class cannot be set: %s", os.strerror(ctypes.get_errno()))
