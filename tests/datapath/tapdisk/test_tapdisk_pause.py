"""Pauses that go wrong, and images that would send tapdisk elsewhere."""

from __future__ import annotations

import shutil
import struct
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.registry import Formats
from sm.cowutil.vhd.util import VhdUtil
from sm.datapath.base import DatapathFailed, OutcomeUnknown
from sm.datapath.tapdisk.control import Control
from sm.errors import Busy
from sm.process import run
from tests.datapath.clients import Writer, qemu_io
from tests.datapath.tapdisk.fixture import (
    DISK,
    MIB,
    PATIENCE,
    SIZE,
    Tapdisk,
    closed_content,
    served_content,
)
from tests.support.patience import patient, until

FORMATS = Formats(run)
IMPATIENT = replace(PATIENCE, pause=patient(0.25))
"""For a pause that does not end; the request for it must still arrive."""


@pytest.mark.double_only
def test_a_pause_that_stays_is_told_and_not_repeated(tapdisk: Tapdisk, cow_format: str) -> None:
    chain, model = tapdisk.chain(cow_format, "a", "b")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    tapdisk.misbehave(frozen_pause=1)
    with Writer(str(endpoint.nbd), bytes(model)) as writer:
        writer.go_on(3)
        for _ in range(2):
            with pytest.raises(OutcomeUnknown, match=r"state 0x14.*cannot be withdrawn"):
                tapdisk.datapath(patience=IMPATIENT).pause(DISK)
        with pytest.raises(Busy, match="not paused yet"):
            datapath.resume(DISK, chain)
        found = datapath.find(DISK)
        assert found is not None
        assert not found.paused
        rounds = writer.rounds
        time.sleep(0.1)
        assert writer.rounds <= rounds + 1
        # Its last request ends after all, and it becomes paused by itself.
        tapdisk.misbehave()
        datapath.pause(DISK)
        assert tapdisk.requests(9) == 1
        datapath.resume(DISK, chain)
        writer.go_on(3)
    assert served_content(str(endpoint.nbd)) == writer.data
    datapath.close(DISK)
    assert closed_content(chain) == writer.data


@pytest.mark.double_only
def test_a_frozen_disk_can_be_closed(tapdisk: Tapdisk) -> None:
    chain, model = tapdisk.chain("qcow2", "a", "b")
    datapath = tapdisk.datapath(patience=IMPATIENT)
    datapath.open(DISK, chain, read_only=False)
    tapdisk.misbehave(frozen_pause=1)
    with pytest.raises(OutcomeUnknown):
        datapath.refresh(DISK, chain)
    datapath.close(DISK)
    assert datapath.served() == []
    assert closed_content(chain) == model


@pytest.mark.double_only
def test_a_resume_that_fails_may_be_repeated(tapdisk: Tapdisk, cow_format: str) -> None:
    chain, model = tapdisk.chain(cow_format, "a", "b")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    tapdisk.misbehave(resume_fails=2)
    with Writer(str(endpoint.nbd), bytes(model)) as writer:
        datapath.pause(DISK)
        for _ in range(2):
            with pytest.raises(DatapathFailed, match=r"cannot be opened.*Input/output error"):
                datapath.resume(DISK, chain)
            found = datapath.find(DISK)
            assert found is not None
            assert (found.paused, found.chain) == (True, tuple(chain))
        datapath.resume(DISK, chain)
        writer.go_on(3)
    assert served_content(str(endpoint.nbd)) == writer.data


@pytest.mark.double_only
@pytest.mark.parametrize("failures", [1, 2])
def test_a_refresh_that_fails_goes_back(tapdisk: Tapdisk, cow_format: str, failures: int) -> None:
    """To the old parent; where even that fails, the disk is left paused, and it may be repeated."""
    chain, model = tapdisk.chain(cow_format, "a", "b")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    copy = ImageRef(chain[1].path.with_stem("copy"), cow_format)
    shutil.copyfile(chain[1].path, copy.path)
    new = [chain[0], copy]
    tapdisk.misbehave(resume_fails=failures)
    with Writer(str(endpoint.nbd), bytes(model)) as writer:
        writer.go_on(3)
        with pytest.raises(DatapathFailed, match="stays paused" if failures == 2 else "Input"):
            datapath.refresh(DISK, new)
        found = datapath.find(DISK)
        assert found is not None
        assert (found.chain, found.paused) == (tuple(chain), failures == 2)
        link = FORMATS.cow(cow_format).info(chain[0].path).parent
        assert link is not None
        assert link.name == chain[1].path.name
        datapath.refresh(DISK, new)
        writer.go_on(3)
    datapath.close(DISK)
    assert closed_content(new) == writer.data


def test_another_size_is_refused_and_the_disk_stays_paused(
    tapdisk: Tapdisk, cow_format: str
) -> None:
    chain, model = tapdisk.chain(cow_format, "a", "b")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    larger = ImageRef(chain[0].path.with_stem("larger"), cow_format)
    datapath.pause(DISK)
    FORMATS.cow(cow_format).snapshot(larger.path, chain[0], 2 * SIZE)
    with pytest.raises(DatapathFailed, match="another size"):
        datapath.resume(DISK, [larger, *chain])
    found = datapath.find(DISK)
    assert found is not None
    assert (found.paused, found.chain) == (True, tuple(chain))
    datapath.resume(DISK, chain)
    assert served_content(str(endpoint.nbd)) == model


def test_what_somebody_else_changed_is_not_believed(tapdisk: Tapdisk) -> None:
    """The leaf that tapdisk says it serves is not the one that was noted."""
    chain, _ = tapdisk.chain("qcow2", "a", "b")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    other = ImageRef(chain[0].path.with_stem("other"), "qcow2")
    FORMATS.cow("qcow2").snapshot(other.path, chain[0], SIZE)
    control = Control(tapdisk.control / f"ctl{endpoint.pid}", PATIENCE.answer)
    control.pause(0, PATIENCE.pause)
    control.resume(0, f"qcow2:{other.path}", PATIENCE.resume)
    with pytest.raises(DatapathFailed, match="somebody else changed it"):
        datapath.find(DISK)
    datapath.close(DISK)
    assert datapath.find(DISK) is None


def test_a_vhd_changed_while_it_is_the_leaf_loses_it_and_while_paused_does_not(
    tapdisk: Tapdisk,
) -> None:
    """Why headers are changed between pause and resume."""
    chain, _ = tapdisk.chain("vhd", "a", "b")
    util = VhdUtil(run)
    datapath = tapdisk.datapath()
    datapath.open(DISK, chain, read_only=False)
    util.set_hidden(chain[0].path, hidden=True)
    datapath.pause(DISK)
    assert not util.info(chain[0].path).hidden
    util.set_hidden(chain[0].path, hidden=True)
    datapath.resume(DISK, chain)
    datapath.close(DISK)
    assert util.info(chain[0].path).hidden


@pytest.mark.parametrize("when", ["open", "refresh"])
def test_a_vhd_that_names_its_parent_twice_is_not_opened(tapdisk: Tapdisk, when: str) -> None:
    """libvhd takes the first path that it can open: here one outside the folder, with any data."""
    chain, _ = tapdisk.chain("vhd", "a")
    secret = tapdisk.images.parent / "secret"
    secret.write_bytes(b"s" * SIZE)
    raw = ImageRef(tapdisk.images / "base.raw", "raw")
    raw.path.write_bytes(bytes(SIZE))
    util = VhdUtil(run)
    leaf = ImageRef(tapdisk.images / "leaf.vhd", "vhd")
    util.snapshot(leaf.path, raw, SIZE)
    with_absolute_locator(leaf, f"file://{secret}")
    link = util.info(leaf.path).parent
    assert link is not None
    assert link.name == "base.raw"
    assert not util.names_one_parent(leaf.path)
    datapath = tapdisk.datapath()
    if when == "open":
        with pytest.raises(DatapathFailed, match="which tapdisk may take"):
            datapath.open(DISK, [leaf, raw], read_only=False)
    else:
        datapath.open(DISK, chain, read_only=False)
        with pytest.raises(DatapathFailed, match="which tapdisk may take"):
            datapath.refresh(DISK, [leaf, raw])
        datapath.close(DISK)
    util.set_parent(leaf.path, raw)
    assert util.names_one_parent(leaf.path)
    endpoint = datapath.open(DISK, [leaf, raw], read_only=False)
    assert served_content(str(endpoint.nbd)) == bytes(SIZE)


def with_absolute_locator(image: ImageRef, url: str) -> None:
    """Have the first locator of a VHD spell an absolute path, before the good relative one."""
    data = bytearray(image.path.read_bytes())
    header, locators = 512, 512 + 576
    code, _, _, _, offset = struct.unpack_from(">4sIIIQ", data, locators)
    assert code == b"MacX"
    text = url.encode()
    assert len(text) <= 512
    data[offset : offset + len(text)] = text
    struct.pack_into(">4sIIIQ", data, locators, code, 512, len(text), 0, offset)
    data[header + 36 : header + 40] = bytes(4)
    checksum = ~sum(data[header : header + 1024]) & 0xFFFFFFFF
    struct.pack_into(">I", data, header + 36, checksum)
    image.path.write_bytes(data)


@pytest.mark.parametrize("name", ["../x.qcow2", "/etc/passwd", "nbd:unix:/x", "json:{}"])
def test_a_qcow2_that_leads_elsewhere_is_not_opened(tapdisk: Tapdisk, name: str) -> None:
    chain, _ = tapdisk.chain("qcow2", "a", "b")
    argv = ["qemu-img", "rebase", "-u", "-F", "raw", "-b", name, str(chain[0].path)]
    subprocess.run(argv, check=True)
    sockets = set(tapdisk.control.glob("ctl*"))
    with pytest.raises(DatapathFailed, match="names the parent"):
        tapdisk.datapath().open(DISK, chain, read_only=False)
    assert set(tapdisk.control.glob("ctl*")) == sockets


def test_a_qcow2_that_leaves_its_parents_format_open_is_not_opened(tapdisk: Tapdisk) -> None:
    """It would be guessed from what a guest wrote."""
    chain, _ = tapdisk.chain("qcow2", "a", "b")
    data = bytearray(chain[0].path.read_bytes())
    at = data.index(b"\xe2\x79\x2a\xca")
    data[at : at + 4] = b"\x12\x34\x56\x78"  # an extension that nobody knows
    chain[0].path.write_bytes(data)
    with pytest.raises(DatapathFailed, match="format"):
        tapdisk.datapath().open(DISK, chain, read_only=False)


def test_clients_that_wait_while_paused_are_served_afterwards(tapdisk: Tapdisk) -> None:
    """A write that is sent into the pause, and a client that comes during it."""
    chain, model = tapdisk.chain("qcow2", "a", "b")
    datapath = tapdisk.datapath()
    endpoint = datapath.open(DISK, chain, read_only=False)
    datapath.pause(DISK)
    writer = threading.Thread(target=qemu_io, args=(str(endpoint.nbd), "write -P 7 4M 1M"))
    writer.start()
    time.sleep(0.3)
    assert writer.is_alive()
    before = closed_content(chain)
    assert before == model
    datapath.resume(DISK, chain)
    until(lambda: not writer.is_alive())
    model[4 * MIB : 5 * MIB] = b"\x07" * MIB
    assert served_content(str(endpoint.nbd)) == model
