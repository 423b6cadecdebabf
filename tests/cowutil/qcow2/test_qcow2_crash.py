"""A kill at each write of each tool that changes an image: what is left, and that it can go on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef, ParentLink, ToolResult
from sm.cowutil.qcow2.util import Qcow2Util
from sm.errors import ToolFailed
from sm.process import run
from tests.cowutil.contract.subjects import qemu_content, qemu_io
from tests.cowutil.qcow2.images import MIB, qemu_check

CALLS = "pwrite64,pwritev,fdatasync,ftruncate"
UTIL = Qcow2Util(run)


class KillAt:
    """The real runner; the tool is killed as a thread of it makes its n-th change to a file."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        accept: Collection[int] = (0,),
        inspect: bool = False,
        watch: Callable[[str], None] | None = None,
    ) -> ToolResult:
        inject = f"inject={CALLS}:signal=SIGKILL:when={self.number}"
        traced = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={CALLS}", "-e", inject]
        return run([*traced, *argv], timeout=timeout, accept=accept, inspect=inspect, watch=watch)


def until_it_succeeds(attempt: Callable[[Qcow2Util], None], check: Callable[[], None]) -> int:
    """Kill at the first change, then at the second, and so on until there is no more to kill.

    Calls are counted for each thread of the tool, so how many kills there are may vary.
    """
    for number in range(1, 200):
        try:
            attempt(Qcow2Util(KillAt(number)))
        except ToolFailed:
            check()
        else:
            check()
            return number
    pytest.fail("it never succeeds")


@pytest.mark.parametrize("kind", ["create", "snapshot"])
def test_a_new_image_is_there_whole_or_not_at_all(kind: str, tmp_path: Path) -> None:
    path, base = tmp_path / "image", ImageRef(tmp_path / "base", "qcow2")
    UTIL.create(base.path, 8 * MIB)
    parent = None if kind == "create" else ParentLink("base", "qcow2")

    def attempt(util: Qcow2Util) -> None:
        path.unlink(missing_ok=True)
        (tmp_path / ".image.new").write_bytes(b"left by an earlier crash")
        if parent is None:
            util.create(path, 8 * MIB)
        else:
            util.snapshot(path, base, 8 * MIB)

    def check() -> None:
        if path.exists():
            info = UTIL.info(path)
            assert (info.virtual_size, info.hidden, info.parent) == (8 * MIB, False, parent)
            assert qemu_check(path) == (0, 0)
        assert not (tmp_path / ".image.new").exists()

    assert until_it_succeeds(attempt, check) > 1
    assert path.exists()


@pytest.fixture
def chain(tmp_path: Path) -> list[ImageRef]:
    """A child with data over a base with data, and an image equal to the base."""
    base, child, other = (ImageRef(tmp_path / name, "qcow2") for name in ("base", "child", "other"))
    for image in (base, other):
        UTIL.create(image.path, 8 * MIB)
        qemu_io([image], "write -P 1 0 2M")
    UTIL.snapshot(child.path, base, 8 * MIB)
    qemu_io([child, base], "write -P 2 1M 2M")
    UTIL.set_hidden(child.path, True)
    return [child, base, other]


def test_resize(chain: list[ImageRef]) -> None:
    child, base, _ = chain
    content, image = qemu_content([child, base]), child.path.read_bytes()

    def attempt(util: Qcow2Util) -> None:
        child.path.write_bytes(image)
        util.resize(child.path, 6 << 40)  # the L1 table must move

    def check() -> None:
        size = UTIL.info(child.path).virtual_size
        assert size in (8 * MIB, 6 << 40)
        found = qemu_check(child.path)
        assert found is not None
        assert found[0] == 0
        if size == 8 * MIB:
            assert qemu_content([child, base]) == content
        assert UTIL.repair(child.path).clean
        assert UTIL.info(child.path).hidden

    assert until_it_succeeds(attempt, check) > 1


def test_set_parent(chain: list[ImageRef]) -> None:
    child, base, other = chain
    content, image = qemu_content([child, base]), child.path.read_bytes()

    def attempt(util: Qcow2Util) -> None:
        child.path.write_bytes(image)
        util.set_parent(child.path, other)

    def check() -> None:
        parent = UTIL.info(child.path).parent
        assert parent is not None
        assert parent.format == "qcow2"
        assert parent.name in (base.path.name, other.path.name)
        now = base if parent.name == base.path.name else other
        assert qemu_content([child, now]) == content
        assert qemu_check(child.path) == (0, 0)
        assert UTIL.info(child.path).hidden

    assert until_it_succeeds(attempt, check) > 1


def test_repair(chain: list[ImageRef]) -> None:
    child, base, _ = chain
    content = qemu_content([child, base])
    size = child.path.stat().st_size // 65536
    damaged = bytearray(child.path.read_bytes())
    block = int.from_bytes(damaged[0x10000:0x10008], "big")
    for cluster in range(size - 3, size):
        damaged[block + 2 * cluster : block + 2 * cluster + 2] = bytes(2)

    def attempt(util: Qcow2Util) -> None:
        child.path.write_bytes(damaged)
        util.repair(child.path)

    def check() -> None:
        assert qemu_content([child, base]) == content
        assert UTIL.repair(child.path).clean
        assert qemu_content([child, base]) == content

    assert until_it_succeeds(attempt, check) > 1


def test_a_merge(chain: list[ImageRef], tmp_path: Path) -> None:
    child, base, _ = chain
    leaf = ImageRef(tmp_path / "leaf", "qcow2")
    UTIL.snapshot(leaf.path, child, 8 * MIB)
    qemu_io([leaf, child, base], "write -P 3 5M 64k")
    content, image = qemu_content([leaf, child, base]), base.path.read_bytes()

    def attempt(util: Qcow2Util) -> None:
        base.path.write_bytes(image)
        util.coalesce([child, base], 1)

    def check() -> None:
        assert qemu_content([leaf, child, base]) == content
        found = qemu_check(base.path)
        assert found is not None
        assert found[0] == 0
        assert UTIL.repair(base.path).clean
        UTIL.coalesce([child, base], 1)
        assert qemu_content([leaf, base]) == content
        assert qemu_check(base.path) == (0, 0)

    assert until_it_succeeds(attempt, check) > 1
