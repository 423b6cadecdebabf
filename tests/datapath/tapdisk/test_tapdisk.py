"""Tapdisk as a datapath, with clients that use the disk while its chain changes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.registry import Formats
from sm.datapath.base import DatapathFailed
from sm.datapath.state import Note, Notes
from sm.datapath.tapdisk import processes
from sm.datapath.tapdisk.control import Control
from sm.datapath.tapdisk.minors import Minors
from sm.errors import InvalidArgument, SmError, Unimplemented, VdiInUse, VdiMissing
from sm.owner import start_time
from sm.process import run
from tests.datapath.clients import Writer, qemu_io
from tests.datapath.tapdisk.fixture import (
    DISK,
    MIB,
    PATIENCE,
    SIZE,
    Tapdisk,
    check,
    closed_content,
    served_content,
)
from tests.support.patience import until

FORMATS = Formats(run)


def markers(tapdisk: Tapdisk) -> list[str]:
    """The minors that are taken."""
    return sorted(path.name for path in (tapdisk.control / "tapdisk").glob("tapdisk-*"))


def test_open_serve_close(tapdisk: Tapdisk, cow_format: str) -> None:
    chain, model = tapdisk.chain(cow_format, "a", "b", "c")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    assert datapath.open(DISK, chain, read_only=False) == endpoint
    assert endpoint.nbd == f"nbd+unix:///{DISK.vdi}?socket={endpoint.socket}"
    assert served_content(endpoint.nbd) == model
    qemu_io(endpoint.nbd, "write -P 9 5M 1M", "write -z 3M 1M")
    model[5 * MIB : 6 * MIB] = b"\x09" * MIB
    model[3 * MIB : 4 * MIB] = bytes(MIB)
    with pytest.raises(VdiInUse):
        datapath.open(DISK, chain, read_only=True)
    found = datapath.find(DISK)
    assert found is not None
    assert (found.chain, found.endpoint) == (tuple(chain), endpoint)
    assert (found.read_only, found.paused) == (False, False)
    assert served_content(endpoint.nbd) == model
    datapath.close(DISK)
    assert datapath.find(DISK) is None
    assert start_time(endpoint.pid) is None
    assert markers(tapdisk) == []
    datapath.close(DISK)
    assert closed_content(chain) == model
    check(chain)


def test_raw(tapdisk: Tapdisk) -> None:
    chain, model = tapdisk.chain("raw", "a")
    endpoint = tapdisk.datapath().open(DISK, chain, read_only=False)
    qemu_io(str(endpoint.nbd), "write -P 9 5M 64k")
    model[5 * MIB : 5 * MIB + 65536] = b"\x09" * 65536
    assert served_content(str(endpoint.nbd)) == model
    tapdisk.datapath().close(DISK)
    assert chain[0].path.read_bytes() == model


def test_read_only_writes_nothing(tapdisk: Tapdisk, cow_format: str) -> None:
    chain, model = tapdisk.chain(cow_format, "a", "b")
    before = [each.path.read_bytes() for each in chain]
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=True)
    datapath.refresh(DISK, chain)
    assert served_content(str(endpoint.nbd)) == model
    datapath.close(DISK)
    assert [each.path.read_bytes() for each in chain] == before


def test_no_file_in_place_of_nbd(tapdisk: Tapdisk, tmp_path: Path) -> None:
    chain, _ = tapdisk.chain("qcow2", "a")
    with pytest.raises(Unimplemented):
        tapdisk.datapath().open(DISK, chain, read_only=False, path=tmp_path / "disk")
    assert tapdisk.datapath().find(DISK) is None


def test_statistics(tapdisk: Tapdisk, cow_format: str) -> None:
    chain, _ = tapdisk.chain(cow_format, "a")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    before = datapath.statistics(DISK)
    qemu_io(str(endpoint.nbd), "write -P 9 5M 64k", "read 1M 128k")
    after = datapath.statistics(DISK)
    assert before.bytes_read is not None
    assert before.bytes_written is not None
    assert after.bytes_read is not None
    assert after.bytes_written is not None
    assert after.bytes_written - before.bytes_written == 65536
    assert after.bytes_read - before.bytes_read >= 131072
    assert (after.reads, after.writes, after.clients) == (None, None, None)


def test_pause_change_resume_under_a_writer(tapdisk: Tapdisk, cow_format: str) -> None:
    """While it is paused others merge below the leaf; its user never sees an error."""
    chain, model = tapdisk.chain(cow_format, "a", "b", "c")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    util = FORMATS.cow(cow_format)
    with Writer(str(endpoint.nbd), bytes(model)) as writer:
        writer.go_on(5)
        datapath.pause(DISK)
        datapath.pause(DISK)
        served = datapath.served()
        assert [each.paused for each in served] == [True]
        frozen = [each.path.read_bytes() for each in chain]
        time.sleep(0.1)
        assert [each.path.read_bytes() for each in chain] == frozen
        util.coalesce(chain[1:], 1)
        left = [chain[0], chain[2]]
        with pytest.raises(DatapathFailed, match="is over b"):
            datapath.resume(DISK, left)
        util.set_parent(chain[0].path, chain[2])
        datapath.resume(DISK, left)
        datapath.resume(DISK, left)
        chain[1].path.unlink()
        writer.go_on(5)
        found = datapath.find(DISK)
        assert found is not None
        assert (found.chain, found.paused) == (tuple(left), False)
    assert served_content(str(endpoint.nbd)) == writer.data
    datapath.close(DISK)
    assert closed_content(left) == writer.data
    check(left)


def test_snapshot_under_a_writer(tapdisk: Tapdisk, cow_format: str) -> None:
    chain, model = tapdisk.chain(cow_format, "a")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    leaf, util = chain[0], FORMATS.cow(cow_format)
    with Writer(str(endpoint.nbd), bytes(model)) as writer:
        for number in range(3):
            writer.go_on(5)
            base = ImageRef(leaf.path.with_stem(f"base{number}"), cow_format)
            datapath.pause(DISK)
            leaf.path.rename(base.path)
            util.snapshot(leaf.path, base, SIZE)
            util.set_hidden(base.path, hidden=True)
            chain = [leaf, base, *chain[1:]]
            datapath.resume(DISK, chain)
            frozen = base.path.read_bytes()
            writer.go_on(5)
            assert base.path.read_bytes() == frozen
            # A second name for the leaf, as `refresh` goes over to.
            fresh = ImageRef(leaf.path.with_stem(f"fresh{number}"), cow_format)
            util.snapshot(fresh.path, leaf, SIZE)
            datapath.refresh(DISK, [fresh, *chain])
            leaf, chain = fresh, [fresh, *chain]
    assert served_content(str(endpoint.nbd)) == writer.data
    datapath.close(DISK)
    assert closed_content(chain) == writer.data
    assert [util.info(each.path).hidden for each in chain if "base" in each.path.name] == [True] * 3
    check(chain)


def test_relink_under_a_writer(tapdisk: Tapdisk, cow_format: str) -> None:
    """Somebody else made one image of the parents; the leaf is made to name it."""
    chain, model = tapdisk.chain(cow_format, "a", "b", "c")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    util = FORMATS.cow(cow_format)
    whole = [ImageRef(each.path.with_stem(f"copy-{each.path.stem}"), cow_format) for each in chain]
    for copy, each in zip(whole[1:], chain[1:], strict=True):
        shutil.copyfile(each.path, copy.path)
    util.set_parent(whole[1].path, whole[2])
    util.coalesce(whole[1:], 1)
    left = [chain[0], whole[2]]
    with Writer(str(endpoint.nbd), bytes(model)) as writer:
        writer.go_on(5)
        datapath.refresh(DISK, left)
        for each in chain[1:]:
            each.path.unlink()
        writer.go_on(5)
    datapath.close(DISK)
    link = util.info(chain[0].path).parent
    assert link is not None
    assert link.name == whole[2].path.name
    assert closed_content(left) == writer.data
    check(left)


def test_a_refresh_that_is_refused_changes_nothing(tapdisk: Tapdisk, cow_format: str) -> None:
    chain, model = tapdisk.chain(cow_format, "a", "b")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    util = FORMATS.cow(cow_format)
    larger = ImageRef(chain[0].path.with_stem("larger"), cow_format)
    util.snapshot(larger.path, chain[0], 2 * SIZE)
    stranger = ImageRef(chain[0].path.with_stem("stranger"), cow_format)
    util.create(stranger.path, SIZE)
    torn = ImageRef(chain[0].path.with_stem("torn"), cow_format)
    torn.path.write_bytes(b"QFI\xfbconectix" * 1000)
    elsewhere = ImageRef(chain[1].path.parent / "sub" / chain[1].path.name, cow_format)
    refused = (
        [larger, *chain],
        [stranger, *chain],
        [chain[0], torn],
        [chain[0], elsewhere],
        [chain[0]],
        [],
    )
    with Writer(str(endpoint.nbd), bytes(model)) as writer:
        for each in refused:
            with pytest.raises(DatapathFailed):
                datapath.refresh(DISK, each)
            found = datapath.find(DISK)
            assert found is not None
            assert (found.chain, found.paused) == (tuple(chain), False)
            writer.go_on(3)
    datapath.close(DISK)
    assert closed_content(chain) == writer.data
    check(chain)


@pytest.mark.parametrize("fault", ["missing", "torn", "stranger", "no parent given", "too long"])
def test_a_chain_that_cannot_be_opened_starts_nothing(
    tapdisk: Tapdisk, cow_format: str, fault: str
) -> None:
    chain, _ = tapdisk.chain(cow_format, "a", "b")
    if fault == "missing":
        chain[1].path.unlink()
    elif fault == "torn":
        chain[1].path.write_bytes(bytes(100_000))
    elif fault == "stranger":
        other = ImageRef(chain[1].path.with_stem("other"), cow_format)
        FORMATS.cow(cow_format).create(other.path, SIZE)
        chain[1] = other
    elif fault == "too long":
        longer = tapdisk.images.joinpath(*["d" * 100] * 3)
        longer.mkdir(parents=True)
        chain = [ImageRef(each.path.rename(longer / each.path.name), cow_format) for each in chain]
    else:
        del chain[1]
    sockets = set(tapdisk.control.glob("ctl*"))
    with pytest.raises(SmError):
        tapdisk.datapath().open(DISK, chain, read_only=False)
    assert tapdisk.datapath().find(DISK) is None
    assert markers(tapdisk) == []
    assert set(tapdisk.control.glob("ctl*")) == sockets
    with pytest.raises(VdiMissing):
        tapdisk.datapath().refresh(DISK, chain)


def test_a_path_that_a_message_cannot_hold(tapdisk: Tapdisk) -> None:
    """The longest one is taken, one byte more is not."""
    chain, model = tapdisk.chain("raw", "a")
    room = 255 - len(f"aio:{tapdisk.images}/")
    parts = []
    while room > 200:
        parts.append("d" * 100)
        room -= 101
    folder = tapdisk.images.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    longest = ImageRef(chain[0].path.rename(folder / ("x" * room)), "raw")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, [longest], read_only=False)
    assert served_content(str(endpoint.nbd)) == model
    datapath.close(DISK)
    longer = ImageRef(longest.path.rename(folder / ("x" * (room + 1))), "raw")
    with pytest.raises(InvalidArgument, match="256 bytes"):
        datapath.open(DISK, [longer], read_only=False)


def test_found_again_and_after_a_crash(tapdisk: Tapdisk, cow_format: str) -> None:
    chain, model = tapdisk.chain(cow_format, "a", "b")
    endpoint = tapdisk.datapath().open(DISK, chain, read_only=False)
    again = tapdisk.datapath()
    assert [served.endpoint for served in again.served()] == [endpoint]
    os.kill(endpoint.pid, signal.SIGKILL)
    until(lambda: start_time(endpoint.pid) is None)
    assert again.find(DISK) is None
    assert again.served() == []
    with pytest.raises(VdiMissing):
        again.refresh(DISK, chain)
    if cow_format == "vhd":
        FORMATS.cow("vhd").repair(chain[0].path)
    reopened = again.open(DISK, chain, read_only=False)
    assert reopened.pid != endpoint.pid
    assert len(markers(tapdisk)) == 1
    assert served_content(str(reopened.nbd)) == model


def test_a_start_that_was_not_noted_is_adopted(tapdisk: Tapdisk) -> None:
    """We ended when the image was open, and before the pid was noted."""
    chain, model = tapdisk.chain("qcow2", "a", "b")
    endpoint = tapdisk.datapath().open(DISK, chain, read_only=False)
    Notes(tapdisk.folder / "tapdisk").write(Note(DISK, tuple(chain), read_only=False))
    found = tapdisk.datapath().find(DISK)
    assert found is not None
    assert found.endpoint == endpoint
    assert served_content(str(endpoint.nbd)) == model


@pytest.mark.parametrize("reached", ["minor", "process", "attached", "closed"])
def test_a_start_that_broke_off_is_cleaned_up(tapdisk: Tapdisk, reached: str) -> None:
    """We ended in the middle of a start, or of an end."""
    chain, model = tapdisk.chain("qcow2", "a", "b")
    owner = str(tapdisk.folder / "tapdisk" / DISK.vdi)
    Notes(tapdisk.folder / "tapdisk").write(Note(DISK, tuple(chain), read_only=False))
    minor = Minors(tapdisk.control / "tapdisk").allocate(owner)
    pid = 0
    if reached != "minor":
        pid = processes.start(tapdisk.binary, owner, 10)
        control = Control(tapdisk.control / f"ctl{pid}", PATIENCE.answer)
        if reached != "process":
            control.attach(minor)
        if reached == "closed":
            control.open(minor, f"qcow2:{chain[0].path}", read_only=False, seconds=PATIENCE.open)
            control.close(minor, PATIENCE.close)
    datapath = tapdisk.datapath()
    assert datapath.find(DISK) is None
    assert datapath.served() == []
    endpoint = datapath.open(DISK, chain, read_only=False)
    assert pid == 0 or start_time(pid) is None
    assert len(markers(tapdisk)) == 1
    assert served_content(str(endpoint.nbd)) == model
    datapath.close(DISK)
    assert markers(tapdisk) == []


def test_what_others_run_is_left_alone(tapdisk: Tapdisk) -> None:
    """Another program's marker, also while nobody holds it, and its process."""
    chain, _ = tapdisk.chain("qcow2", "a")
    (tapdisk.control / "tapdisk").mkdir(exist_ok=True)
    theirs = tapdisk.control / "tapdisk" / "tapdisk-0"
    theirs.touch()
    pid = processes.start(tapdisk.binary, "somebody else", 10)
    try:
        datapath = tapdisk.datapath()
        datapath.open(DISK, chain, read_only=False)
        assert markers(tapdisk) == ["tapdisk-0", "tapdisk-1"]
        datapath.close(DISK)
        assert start_time(pid) is not None
        assert markers(tapdisk) == ["tapdisk-0"]
    finally:
        theirs.unlink()
        os.kill(pid, signal.SIGKILL)
