"""VHD chains served over NBD, with clients that use the disk while its chain changes."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.datapath.base import DatapathFailed, OutcomeUnknown
from sm.datapath.sockets import socket_folder
from sm.datapath.state import Note
from sm.datapath.vhd_nbd import control
from sm.datapath.vhd_nbd.datapath import VhdNbdDatapath
from sm.errors import SmError, VdiMissing
from sm.nbd.protocol import MAX_REQUEST, REQUEST, REQUEST_MAGIC, Command, CommandFlag
from sm.nbd.server import MAX_CLIENTS
from sm.owner import start_time
from tests.cowutil.vhd.vhd_support import content as our_content
from tests.datapath.clients import content, qemu_io
from tests.datapath.vhd_nbd.chains import (
    DISK,
    SIZE,
    UTIL,
    chain_of,
    check,
    image,
    independent_content,
)
from tests.nbd.client import connect
from tests.support.patience import until


@pytest.fixture
def datapath(tmp_path: Path) -> Iterator[VhdNbdDatapath]:
    """A datapath whose processes end with the test."""
    datapath = VhdNbdDatapath(tmp_path / "run")
    yield datapath
    for served in datapath.served():
        datapath.close(served.disk)


def test_random_requests_against_a_model(datapath: VhdNbdDatapath, tmp_path: Path) -> None:
    """Two connections, of any alignment, over a chain on a raw base."""
    dice = random.Random(11)
    model = bytearray(dice.randbytes(SIZE))
    raw = ImageRef(tmp_path / "base.raw", "raw")
    raw.path.write_bytes(model)
    middle, leaf = image(tmp_path, "middle"), image(tmp_path, "leaf")
    UTIL.snapshot(middle.path, raw, SIZE)
    UTIL.snapshot(leaf.path, middle, SIZE)
    chain = [leaf, middle, raw]
    endpoint = datapath.open(DISK, chain, read_only=False)
    clients = [connect(endpoint.nbd, structured=mode) for mode in (False, True)]
    for number in range(400):
        client, other = dice.sample(clients, 2)
        length = dice.choice([1, 100, 512, 513, 4096, 50_000, 1 << 20])
        at = dice.choice([dice.randrange(SIZE - length), dice.randrange(4) * (2 << 20)])
        at = min(at, SIZE - length)
        if dice.random() < 0.25:
            flags = dice.choice([0, CommandFlag.NO_HOLE])
            assert client.do(Command.WRITE_ZEROES, at, length, flags=flags) == 0
            model[at : at + length] = bytes(length)
        else:
            data = dice.randbytes(length)
            assert client.do(Command.WRITE, at, data=data) == 0
            model[at : at + length] = data
        low = max(0, at - 700)
        assert other.read(low, at + length - low) == (0, model[low : at + length])
        if number % 50 == 0:
            assert client.do(Command.CACHE, at, length) == 0
            datapath.refresh(DISK, chain)
    assert clients[1].status(0, SIZE)[0] == 0
    assert content(endpoint.nbd, SIZE) == model
    datapath.close(DISK)
    assert base_and(chain) == model
    check(chain)


def base_and(chain: list[ImageRef]) -> bytes:
    """What the disk holds, merged into its raw base and read as a plain file."""
    UTIL.coalesce(chain, len(chain) - 1)
    return chain[-1].path.read_bytes()


def test_what_lies_behind_the_end_of_an_image_does_not_show(
    datapath: VhdNbdDatapath, tmp_path: Path
) -> None:
    """A base that grew later, below an image that did not, below a larger leaf."""
    data = random.Random(12).randbytes(SIZE)
    raw = ImageRef(tmp_path / "base.raw", "raw")
    raw.path.write_bytes(data)
    middle, leaf = image(tmp_path, "middle"), image(tmp_path, "leaf")
    UTIL.snapshot(middle.path, raw, SIZE)
    raw.path.write_bytes(data + data)
    UTIL.snapshot(leaf.path, middle, 2 * SIZE)
    for read_only in (True, False):
        endpoint = datapath.open(DISK, [leaf, middle, raw], read_only=read_only)
        assert content(endpoint.nbd, 2 * SIZE) == data + bytes(SIZE)
        datapath.close(DISK)


def test_map_tells_holes(datapath: VhdNbdDatapath, tmp_path: Path) -> None:
    leaf = image(tmp_path, "leaf")
    UTIL.create(leaf.path, SIZE)
    endpoint = datapath.open(DISK, [leaf], read_only=False)
    qemu_io(endpoint.nbd, "write -P 1 1M 64k", "write -z -u 4M 2M", "flush")
    client = connect(endpoint.nbd, structured=True)
    expected = [(1 << 20, 3), (64 << 10, 0), (SIZE - (1 << 20) - (64 << 10), 3)]
    assert client.status(0, SIZE) == (0, expected)
    datapath.close(DISK)
    assert UTIL.allocated_size(leaf.path) == 2 << 20


def test_a_note_that_is_behind_its_process_is_put_right(
    datapath: VhdNbdDatapath, tmp_path: Path
) -> None:
    """We ended after the process started, or after it changed its chain, and before we noted it."""
    chain, _ = chain_of(tmp_path, "a", "b")
    endpoint = datapath.open(DISK, chain, read_only=False)
    datapath._notes.write(Note(DISK, tuple(chain[:1]), read_only=False))
    found = VhdNbdDatapath(tmp_path / "run").find(DISK)
    assert found is not None
    assert (found.endpoint, found.chain) == (endpoint, tuple(chain))


def test_a_stale_note_and_its_sockets_are_no_process(
    datapath: VhdNbdDatapath, tmp_path: Path
) -> None:
    chain, model = chain_of(tmp_path, "a")
    endpoint = datapath.open(DISK, chain, read_only=False)
    os.kill(endpoint.pid, signal.SIGKILL)
    until(lambda: start_time(endpoint.pid) is None)
    note = tmp_path / "run" / "vhd_nbd" / f"{DISK.vdi}.json"
    # As after a reboot: another boot, and a process that has the number now.
    text = note.read_text().replace(f'"pid": {endpoint.pid}', f'"pid": {os.getpid()}')
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    note.write_text(text.replace(boot, "another"))
    assert datapath.served() == []
    datapath.close(DISK)
    assert start_time(os.getpid()) is not None
    assert not note.exists()
    assert content(datapath.open(DISK, chain, read_only=False).nbd, SIZE) == model
    datapath.close(DISK)


@pytest.mark.parametrize("fault", ["stranger", "no parent given", "raw leaf"])
def test_a_chain_that_does_not_belong_together_leaves_nothing(
    datapath: VhdNbdDatapath, tmp_path: Path, fault: str
) -> None:
    chain, _ = chain_of(tmp_path, "a", "b")
    if fault == "stranger":
        UTIL.create(tmp_path / "other.vhd", SIZE)
        chain[1] = image(tmp_path, "other")
    elif fault == "raw leaf":
        (tmp_path / "leaf.raw").write_bytes(bytes(SIZE))
        chain = [ImageRef(tmp_path / "leaf.raw", "raw")]
    else:
        del chain[1]
    before = chain[0].path.read_bytes()
    with pytest.raises(SmError):
        datapath.open(DISK, chain, read_only=False)
    assert datapath.find(DISK) is None
    assert list(socket_folder(tmp_path / "run" / "vhd_nbd").glob("*.nbd")) == []
    assert chain[0].path.read_bytes() == before


def test_sigterm_flushes(datapath: VhdNbdDatapath, tmp_path: Path) -> None:
    chain, model = chain_of(tmp_path, "a", "b")
    endpoint = datapath.open(DISK, chain, read_only=False)
    client = connect(endpoint.nbd)
    dice = random.Random(3)
    for _ in range(200):
        at, data = dice.randrange(SIZE // 4096) * 4096, dice.randbytes(4096)
        assert client.do(Command.WRITE, at, data=data) == 0
        model[at : at + 4096] = data
    os.kill(endpoint.pid, signal.SIGTERM)
    until(lambda: start_time(endpoint.pid) is None)
    assert independent_content(chain) == model
    assert UTIL.check(chain[0].path).clean
    assert our_content([each.path for each in chain]) == model


def test_control_takes_no_rubbish(datapath: VhdNbdDatapath, tmp_path: Path) -> None:
    chain, model = chain_of(tmp_path, "a")
    endpoint = datapath.open(DISK, chain, read_only=False)
    assert endpoint.socket is not None
    path = endpoint.socket.with_suffix(".ctl")
    for request in ({"do": "dance"}, {"do": "refresh", "chain": [1]}, {"do": "refresh"}):
        with pytest.raises(DatapathFailed):
            control.call(path, request, 10)
    with pytest.raises(DatapathFailed):
        control.call(path, {"do": 5}, 10)
    with pytest.raises(OutcomeUnknown):
        control.call(path, {"do": "x" * (3 << 20)}, 10)
    assert control.call(path, {"do": "status"}, 10)["pid"] == endpoint.pid
    assert content(endpoint.nbd, SIZE) == model


def test_no_space_is_told(datapath: VhdNbdDatapath, tmp_path: Path) -> None:
    """A limit on the length of files stands for a full disk."""
    chain, model = chain_of(tmp_path, "a")
    leaf = image(tmp_path, "leaf")
    UTIL.snapshot(leaf.path, chain[0], SIZE)
    chain.insert(0, leaf)
    endpoint = datapath.open(DISK, chain, read_only=False)
    client = connect(endpoint.nbd)
    assert client.do(Command.WRITE, 0, data=b"a" * 4096) == 0
    assert client.do(Command.FLUSH) == 0
    model[:4096] = b"a" * 4096
    limit = leaf.path.stat().st_size
    resource.prlimit(endpoint.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    assert client.do(Command.WRITE, 4 << 20, data=b"b" * 4096) == errno.ENOSPC
    assert client.do(Command.WRITE, 0, data=b"c" * 4096) == 0
    assert client.read(0, 4096) == (0, b"c" * 4096)
    assert client.read(4 << 20, 4096) == (0, model[4 << 20 : (4 << 20) + 4096])
    model[:4096] = b"c" * 4096
    datapath.close(DISK)
    assert independent_content(chain) == model
    check(chain)


def test_a_close_that_could_not_flush_says_so(datapath: VhdNbdDatapath, tmp_path: Path) -> None:
    chain, model = chain_of(tmp_path, "a")
    leaf = image(tmp_path, "leaf")
    UTIL.snapshot(leaf.path, chain[0], SIZE)
    chain.insert(0, leaf)
    endpoint = datapath.open(DISK, chain, read_only=False)
    client = connect(endpoint.nbd)
    assert client.do(Command.WRITE, 0, data=b"a" * 4096) == 0
    resource.prlimit(endpoint.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    for _ in range(2):
        assert client.do(Command.FLUSH) == errno.ENOSPC
    for _ in range(2):
        with pytest.raises(DatapathFailed):
            datapath.close(DISK)
        assert start_time(endpoint.pid) is None
        assert datapath.find(DISK) is None
    check(chain)
    datapath.open(DISK, chain, read_only=False)
    datapath.close(DISK)
    UTIL.repair(leaf.path)  # libvhdi wants the footer at the end, which a new block took
    assert independent_content(chain) == model


@pytest.mark.one_in(3)
@pytest.mark.parametrize("seed", range(10))
def test_killed_while_it_goes_over_to_another_parent(
    datapath: VhdNbdDatapath, tmp_path: Path, seed: int
) -> None:
    """The leaf names the one parent or the other, and the disk reads the same."""
    chain, model = chain_of(tmp_path, "a", "b", "c")
    endpoint = datapath.open(DISK, chain, read_only=False)
    client = connect(endpoint.nbd)
    assert client.do(Command.WRITE, 4096, data=b"w" * 4096, flags=CommandFlag.FUA) == 0
    model[4096:8192] = b"w" * 4096
    UTIL.coalesce(chain[1:], 1)
    left = [chain[0], chain[2]]
    delay = seed * 0.0015
    killer = threading.Timer(delay, os.kill, (endpoint.pid, signal.SIGKILL))
    killer.start()
    with suppress(OutcomeUnknown, VdiMissing):
        datapath.refresh(DISK, left)
    killer.join()
    until(lambda: start_time(endpoint.pid) is None)
    link = UTIL.info(chain[0].path).parent
    assert link is not None
    present = chain if link.name == chain[1].path.name else left
    assert link.name == present[1].path.name
    assert independent_content(present) == model
    check(present)
    reopened = datapath.open(DISK, present, read_only=False)
    datapath.refresh(DISK, left)
    chain[1].path.unlink()
    assert content(reopened.nbd, SIZE) == model


def test_what_a_client_only_announces_takes_no_memory(
    datapath: VhdNbdDatapath, tmp_path: Path
) -> None:
    chain, _ = chain_of(tmp_path, "a")
    endpoint = datapath.open(DISK, chain, read_only=False)
    before = resident(endpoint.pid)
    clients = [connect(endpoint.nbd) for _ in range(MAX_CLIENTS)]
    for number, client in enumerate(clients):
        head = REQUEST.pack(REQUEST_MAGIC, 0, Command.WRITE, 1, 0, MAX_REQUEST)
        client.peer.sendall(head + bytes(1 + number))
    time.sleep(0.3)
    grown = resident(endpoint.pid) - before
    assert grown < MAX_CLIENTS * (2 << 20), grown
    for client in clients:
        client.close()


def resident(pid: int) -> int:
    """Bytes of memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
