"""Tests that are root in namespaces of their own: what they mount goes with their last process.

A test marked `own_namespaces` runs in a fork, which has mounts of its own and, unless we are root
already, users of its own: its root is we. That takes nothing but a kernel that allows it. How the
fork ends is how the test ends; fixtures are set up and ended outside.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

MARK = "own_namespaces"
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
PR_SET_PDEATHSIG = 1

ALLOW = (
    "allow namespaces of users: sysctl kernel.unprivileged_userns_clone=1,"
    " user.max_user_namespaces=1000, kernel.apparmor_restrict_unprivileged_userns=0,"
    " whichever of them there is; or run the tests as root"
)

_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass
class _Told:
    """How the test in the fork ended; warnings as `warnings.warn_explicit` takes them."""

    failure: str | None = None
    skipped: str | None = None
    warned: list[tuple[str, type[Warning], str, int]] = field(default_factory=list)


class _State:
    inside = False


def require() -> None:
    """Fail unless this process has mounts of its own."""
    assert _State.inside, f"a test that mounts something must be marked {MARK}"


def apart(test: Callable[..., object]) -> Callable[..., None]:
    """`test`, to be run in a fork of this process with namespaces of its own."""

    def run(**arguments: object) -> None:
        with tempfile.TemporaryFile() as file:
            sys.stdout.flush()
            sys.stderr.flush()
            child = os.fork()
            if child == 0:
                _in_fork(lambda: test(**arguments), file.fileno())
            status = _ended(child)
            file.seek(0)
            told = pickle.load(file) if status == 0 else None
        if told is None:
            pytest.fail(f"the process of the test ended with status {status}", pytrace=False)
        for message, category, name, line in told.warned:
            warnings.warn_explicit(message, category, name, line)
        if told.skipped is not None:
            pytest.skip(told.skipped)
        if told.failure is not None:
            pytest.fail(told.failure, pytrace=False)

    return run


def _ended(child: int) -> int:
    """Wait for a fork; one that is given up says where it was (pytest sees to that), and ends."""
    try:
        _, status = os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGABRT)
        os.waitpid(child, 0)
        raise
    return os.waitstatus_to_exitcode(status)


def _in_fork(test: Callable[[], object], file: int) -> None:
    """Run the test, write down how it ended, and end."""
    status = 1
    try:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        told = _Told()
        with warnings.catch_warnings(record=True) as seen:
            try:
                _leave()
                test()
            except pytest.skip.Exception as skipped:
                told.skipped = str(skipped)
            except BaseException as error:  # noqa: BLE001 - the test has failed, whatever it is
                shown = pytest.ExceptionInfo.from_exception(error).getrepr(style="long")
                told.failure = str(shown)
        told.warned = [
            (str(each.message), each.category, each.filename, each.lineno) for each in seen
        ]
        data = pickle.dumps(told)
        while data:
            data = data[os.write(file, data) :]
        sys.stdout.flush()
        sys.stderr.flush()
        status = 0
    except BaseException:  # noqa: BLE001 - of our own; nobody else would say it
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _leave() -> None:
    """Take this process, which has one thread, into namespaces of its own."""
    user, group = os.geteuid(), os.getegid()
    if user != 0 or _LIBC.unshare(CLONE_NEWNS) != 0:
        if _LIBC.unshare(CLONE_NEWNS | CLONE_NEWUSER) != 0:
            error = os.strerror(ctypes.get_errno())
            pytest.fail(f"this test needs namespaces of its own ({error}): {ALLOW}")
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {user} 1"),
            ("gid_map", f"0 {group} 1"),
        ):
            try:
                Path("/proc/self", name).write_text(text)
            except PermissionError as error:
                pytest.fail(f"this test cannot be root in namespaces of its own ({error}): {ALLOW}")
    if _LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        error = os.strerror(ctypes.get_errno())
        pytest.fail(f"this test cannot have mounts of its own ({error}): {ALLOW}")
    _State.inside = True
