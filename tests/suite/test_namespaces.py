"""Tests that have namespaces of their own: what they mount, what they leave, and how they end."""

from __future__ import annotations

import os
import subprocess
import warnings
from pathlib import Path

import pytest

from sm.block.mounts import mounted_at
from tests.support import namespaces, small_disk

MIB = 1 << 20


def apart(test: object) -> None:
    """Run a function as the hook runs a test that is marked."""
    assert callable(test)
    namespaces.apart(test)()


@pytest.mark.own_namespaces
def test_it_is_root_and_may_mount(tmp_path: Path) -> None:
    assert os.geteuid() == 0
    folder = small_disk.mount(tmp_path / "small", megabytes=1)
    with pytest.raises(OSError, match="No space"):
        (folder / "file").write_bytes(bytes(2 * MIB))


def test_a_mount_is_seen_inside_only(tmp_path: Path) -> None:
    folder = tmp_path / "small"

    def inside() -> None:
        small_disk.mount(folder, megabytes=1)
        assert mounted_at(folder) is not None
        subprocess.run(["mountpoint", "-q", folder], check=True)

    apart(inside)
    assert folder.is_dir()
    assert mounted_at(folder) is None


def test_a_mount_outside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="must be marked own_namespaces"):
        small_disk.mount(tmp_path / "small", megabytes=1)


def test_a_failure_comes_back_with_its_place() -> None:
    def inside() -> None:
        value = 41
        assert value == 42, "it is another"

    with pytest.raises(pytest.fail.Exception, match="it is another") as caught:
        apart(inside)
    assert "test_namespaces.py" in str(caught.value)
    assert "assert 41 == 42" in str(caught.value)


def test_a_skip_comes_back() -> None:
    def inside() -> None:
        raise pytest.skip.Exception("not today")

    with pytest.raises(pytest.skip.Exception, match="not today"):
        apart(inside)


def test_warnings_come_back() -> None:
    with pytest.warns(UserWarning, match="careful"):
        apart(lambda: warnings.warn("careful", UserWarning, stacklevel=1))


def test_a_process_that_dies_is_a_failure() -> None:
    with pytest.raises(pytest.fail.Exception, match="status -9"):
        apart(lambda: os.kill(os.getpid(), 9))


def test_where_it_is_forbidden_the_test_says_what_to_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidding:
        def unshare(self, flags: int) -> int:
            return -1

        def prctl(self, *arguments: int) -> int:
            return 0

    monkeypatch.setattr(namespaces, "_LIBC", Forbidding())
    with pytest.raises(pytest.fail.Exception, match="unprivileged_userns_clone=1"):
        apart(lambda: None)
