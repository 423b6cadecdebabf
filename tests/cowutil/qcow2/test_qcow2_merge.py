"""Merging: explicit graphs, odd sizes and cluster sizes, and what interruptions leave."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef, Steps, ToolResult
from sm.cowutil.errors import Cancelled, ImageBusy, ImageCorrupt, ImageUnsupported
from sm.cowutil.extents import Extents
from sm.cowutil.qcow2 import tool
from sm.cowutil.qcow2.util import Qcow2Util
from sm.process import run
from tests.cowutil.contract.subjects import described, qemu_content, qemu_io
from tests.cowutil.qcow2.images import MIB, qemu, qemu_check
from tests.datapath import clients
from tests.support.patience import until

SIZE = 4 * MIB
UTIL = Qcow2Util(run)


def chain_of(folder: Path, count: int, *, stored: str = "{}", options: str = "") -> list[ImageRef]:
    """A chain of `count` images, uppermost first, each with writes that overlap the others'.

    `stored`: what the images name as their parent, a pattern around the right name.
    """
    generator = random.Random(count)
    chain: list[ImageRef] = []
    for number in range(count):
        path = folder / f"{number}.qcow2"
        extra = ["-o", options] if options else []
        named = ["-u", "-b", stored.format(chain[0].path.name), "-F", "qcow2"] if chain else []
        qemu("qemu-img", "create", "-q", "-f", "qcow2", *extra, *named, path, str(SIZE))
        chain.insert(0, ImageRef(path, "qcow2"))
        scribble(chain, generator)
    return chain


def scribble(chain: Sequence[ImageRef], generator: random.Random) -> None:
    for byte in generator.choices(range(1, 256), k=4):
        offset = generator.randrange(0, SIZE - 300 * 512) // 512 * 512
        qemu_io(chain, f"write -P {byte} {offset} {generator.randrange(1, 300) * 512}")
    qemu_io(chain, f"write -z -u {generator.randrange(60) * 65536} 128k")


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("count", "first", "into"), [(9, 0, 8), (9, 1, 5), (14, 2, 9), (28, 1, 4)])
def test_deep_chains_under_long_names(count: int, first: int, into: int, tmp_path: Path) -> None:
    folder = tmp_path / ("n" * 200 + ", :é=%")
    folder.mkdir()
    chain = chain_of(folder, count)
    content = qemu_content(chain)
    UTIL.coalesce(chain[first:], into - first)
    rest = [*chain[:first], *chain[into:]]
    assert qemu_content(rest) == content
    assert qemu_check(chain[into].path) == (0, 0)


def test_names_in_the_images_are_not_followed(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, 5, stored="poison-{}")
    for number in range(5):
        poison = tmp_path / f"poison-{number}.qcow2"
        qemu("qemu-img", "create", "-q", "-f", "qcow2", poison, str(SIZE))
        qemu_io([ImageRef(poison, "qcow2")], f"write -P 238 0 {SIZE}")
        poison.chmod(0)
    content = qemu_content(chain)
    UTIL.coalesce(chain[1:], 2)
    assert qemu_content([chain[0], *chain[3:]]) == content
    info = UTIL.info(chain[3].path)
    assert info.parent is not None
    assert info.parent.name == "poison-0.qcow2"


def test_the_command_line() -> None:
    chain = [ImageRef(Path(f"/sr/{name}"), "qcow2") for name in "abc"]
    argv = tool.commit_argv([*chain, ImageRef(Path("/sr/d"), "raw")], 2)
    lower = (
        '{"backing": {"driver": "raw", "file": {"driver": "file", "filename": "/sr/d"}}, '
        '"driver": "qcow2", "file": {"driver": "file", "filename": "/sr/c"}}'
    )
    assert argv[:3] == ["setpriv", "--pdeathsig", "KILL"]
    assert argv[3:9] == ["qemu-img", "commit", "-p", "-d", "-b", f"json:{lower}"]
    assert argv[9].startswith('json:{"backing": {"backing": {"backing": {"driver": "raw"')
    assert tool.commit_argv(chain, 2)[8] == "/sr/c"


@pytest.mark.parametrize("size", ["512", "4k", "2M"])
def test_members_with_other_clusters(size: str, tmp_path: Path) -> None:
    """Merged data that fills a cluster of the target in part needs what lies below the target."""
    chain = chain_of(tmp_path, 3)
    generator = random.Random(size)
    for number in (3, 4):
        path = tmp_path / f"{number}.qcow2"
        named = ("-u", "-b", chain[0].path.name, "-F", "qcow2")
        create = ("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={size}")
        qemu(*create, *named, path, str(SIZE))
        chain.insert(0, ImageRef(path, "qcow2"))
        scribble(chain, generator)
    content = qemu_content(chain)
    UTIL.coalesce(chain, 2)
    assert qemu_content(chain[2:]) == content


def test_a_raw_target(tmp_path: Path) -> None:
    base = ImageRef(tmp_path / "base", "raw")
    qemu("qemu-img", "create", "-q", "-f", "raw", base.path, str(SIZE))
    qemu_io([base], "write -P 1 1M 1M")
    middle, top = ImageRef(tmp_path / "middle", "qcow2"), ImageRef(tmp_path / "top", "qcow2")
    UTIL.snapshot(middle.path, base, SIZE)
    qemu_io([middle, base], "write -P 2 1536k 1M", "write -z 1M 64k")
    UTIL.snapshot(top.path, middle, 2 * SIZE)
    qemu_io([top, middle, base], "write -P 3 7M 512k")
    content = qemu_content([top, middle, base])
    copied = UTIL.coalesce([top, middle, base], 2)
    assert qemu_content([base]) == content == base.path.read_bytes()
    assert (
        copied
        == Extents.of(
            [(1 * MIB, MIB + 65536), (1536 << 10, 2560 << 10), (7 * MIB, 7 * MIB + (512 << 10))]
        ).total
    )


def test_a_short_target_over_a_longer_parent_grows_with_zeros(tmp_path: Path) -> None:
    base, target, top = (ImageRef(tmp_path / name, "qcow2") for name in ("base", "target", "top"))
    create = ("qemu-img", "create", "-q", "-f", "qcow2")
    qemu(*create, base.path, str(2 * SIZE))
    qemu_io([base], f"write -P 1 0 {2 * SIZE}")
    qemu(*create, "-u", "-b", "base", "-F", "qcow2", target.path, str(SIZE))
    qemu(*create, "-u", "-b", "target", "-F", "qcow2", top.path, str(2 * SIZE))
    qemu_io([top, target, base], "write -P 3 1M 64k", "write -P 4 6M 64k")
    chain = [top, target, base]
    content = qemu_content(chain)
    assert content[5 * MIB : 5 * MIB + 512] == bytes(512)
    UTIL.coalesce(chain, 1)
    assert qemu_content([target, base]) == content


@pytest.mark.parametrize("position", [0, 1])
def test_a_member_smaller_than_its_parent_is_refused(position: int, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, 4)
    qemu("qemu-img", "resize", "-q", "--shrink", described(chain[position:]), str(SIZE // 2))
    before = chain[2].path.read_bytes()
    with pytest.raises(ImageUnsupported) as caught:
        UTIL.coalesce(chain, 2)
    assert caught.value.path == chain[position].path
    assert chain[2].path.read_bytes() == before


@pytest.mark.parametrize("bit", [1, 2])
@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_a_marked_member_is_refused_by_name(position: int, bit: int, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, 4)
    with chain[position].path.open("r+b") as file:
        file.seek(79)
        file.write(bytes([bit]))
    before = chain[2].path.read_bytes()
    with pytest.raises(ImageCorrupt, match={1: "dirty", 2: "corrupt"}[bit]) as caught:
        UTIL.coalesce(chain, 2)
    assert caught.value.path == chain[position].path
    assert chain[2].path.read_bytes() == before


@pytest.mark.parametrize(("position", "form"), [(0, "raw"), (1, "vhd"), (3, "vhd")])
def test_other_formats_are_not_handed_to_qemu(position: int, form: str, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, 4)
    before = chain[2].path.read_bytes()
    chain[position] = ImageRef(chain[position].path, form)
    with pytest.raises(ImageUnsupported) as caught:
        UTIL.coalesce(chain, 2)
    assert caught.value.path == chain[position].path
    assert chain[2].path.read_bytes() == before


def test_impossible_targets_are_refused(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, 2)
    for into in (0, 2, -1):
        with pytest.raises(ValueError, match="to merge into"):
            UTIL.coalesce(chain, into)


class SlowCommit:
    """The real runner, with commits limited to some bytes a second, and killed if asked."""

    def __init__(self, rate: str, kill_after: float | None = None) -> None:
        self.rate = rate
        self.kill_after = kill_after

    def __call__(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        accept: Collection[int] = (0,),
        inspect: bool = False,
        watch: Callable[[str], None] | None = None,
    ) -> ToolResult:
        if "commit" in argv:
            own = list(argv).index("commit") + 1
            argv = [*argv[:own], "-r", self.rate, *argv[own:]]
            if self.kill_after is not None:
                child = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
                time.sleep(self.kill_after)
                child.kill()
                child.wait()
                raise InterruptedError(argv[0])
        return run(argv, timeout=timeout, accept=accept, inspect=inspect, watch=watch)


def assert_recovers(chain: Sequence[ImageRef], into: int, content: bytes) -> None:
    """After an interruption the disk is what it was; the target has leaks at worst."""
    assert qemu_content(chain) == content
    found = qemu_check(chain[into].path)
    assert found is not None
    assert found[0] == 0
    assert UTIL.repair(chain[into].path).clean
    assert qemu_content(chain) == content
    UTIL.coalesce(chain[1:], into - 1)
    assert qemu_content([chain[0], *chain[into:]]) == content
    assert qemu_check(chain[into].path) == (0, 0)


def test_cancelling_in_the_middle(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, 5)
    content, merged = qemu_content(chain), chain[1:]
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done:
            raise Cancelled

    with pytest.raises(Cancelled):
        Qcow2Util(SlowCommit("512k")).coalesce(merged, 2, stop)
    done, total = seen[-1]
    assert 0 < done < total
    assert_recovers(chain, 3, content)


@pytest.mark.parametrize("after", [0.01, 0.1, 0.4, 0.8])
def test_a_kill_loses_nothing(after: float, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, 5)
    content = qemu_content(chain)
    with pytest.raises(InterruptedError):
        Qcow2Util(SlowCommit("1M", kill_after=after)).coalesce(chain[1:], 2)
    assert_recovers(chain, 3, content)


def test_progress_is_that_of_the_tool() -> None:
    assert tool.percent("    (0.00/100%)\r    (12.34/100%)\r") == pytest.approx(0.1234)
    assert tool.percent("    (100.00/100%)\r\n") == 1.0
    assert tool.percent("") is None
    assert tool.percent("(5.0") is None


@pytest.mark.parametrize("way", ["down", "up"])
def test_who_reads_meanwhile_keeps_what_he_reads(way: str, tmp_path: Path) -> None:
    """A reader has tables in memory: nothing that they lead to may be given back."""
    chain = chain_of(tmp_path, 4)
    content = qemu_content(chain)
    socket = tmp_path / "socket"
    argv = ["qemu-nbd", "-r", "-t", "-k", str(socket), described(chain)]
    with subprocess.Popen(argv) as reader:
        try:
            uri = f"nbd+unix:///?socket={socket}"
            until(socket.exists)
            assert clients.content(uri, SIZE) == content
            if way == "down":
                # He has the target open as well, so qemu refuses to write to it.
                with pytest.raises(ImageBusy):
                    UTIL.coalesce(chain[1:3], 1, steps=Steps(give_back=True, length=1))
            else:
                # What is written to is open for nobody else, so only what is below it.
                beside = tmp_path / "beside.qcow2"
                UTIL.snapshot(beside, chain[1], SIZE)
                upper = ImageRef(beside, "qcow2")
                UTIL.pull([upper, *chain[1:]], 2, steps=Steps(give_back=True, length=1))
            assert clients.content(uri, SIZE) == content
        finally:
            reader.terminate()
