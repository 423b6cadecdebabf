"""Disks in use on one host while another, the SR's master, snapshots and merges."""

from __future__ import annotations

import threading

import pytest

from sm import claims
from sm.gc.collector import Collector
from sm.gc.merge import Done
from tests.datapath.clients import Writer, content, qemu_io
from tests.hosts.hosts import Host, Pool
from tests.support import guest
from tests.support.site import MIB, Refused

SIZE = 8 * MIB


def verify(host: Host, sr: str, disk: str, data: bytes) -> None:
    """Read a disk that nobody uses with a reader of others, and check its images."""
    chain = host.chain(sr, disk)
    assert guest.content(chain) == data
    assert guest.check_clean(chain) == []


def verify_tidy(pool: Pool, images: int) -> None:
    """No unfinished work, no claim, no mark, no more images than there should be."""
    repository = pool.master.repository(pool.sr)
    assert repository.journal.entries() == []
    assert claims.standing(repository) == []
    assert len(pool.master.images(pool.sr)) == images
    assert not list(pool.location.glob(".new-*"))
    assert not [path for host in pool.hosts for path in (host.root / "run").glob("gc/*.yield")]


def test_the_masters_collector_merges_what_another_host_serves(
    pool: Pool, cow_format: str
) -> None:
    """Online through the other host's datapath, or beside it; the guest writes all the time."""
    disk = pool.master.create_vdi(pool.sr, cow_format, SIZE)
    uri = pool.second.activate(disk)
    qemu_io(uri, f"write -P 1 0 {2 * MIB}")
    first = bytes([1]) * (2 * MIB) + bytes(SIZE - 2 * MIB)
    with Writer(uri, first) as writer:
        kept = pool.master.snapshot(disk)
        for _ in range(3):
            doomed = pool.master.snapshot(disk)
            rounds = writer.rounds
            while writer.rounds < rounds + 5 and writer.problem is None:
                threading.Event().wait(0.01)
            pool.master.delete(doomed)
            answer = pool.master.collect(pool.sr)
            merged = [step for step in answer["done"] if step["action"] == "coalesce"]
            through = disk if cow_format == "qcow2" else None
            assert [step["through"] for step in merged] in ([], [through])
    assert len(pool.master.chain(pool.sr, disk)) == 3
    assert content(uri, SIZE) == writer.data
    pool.second.deactivate(disk)
    verify(pool.second, pool.sr, disk, writer.data)
    assert guest.content(pool.third.chain(pool.sr, kept))[: 4 * MIB] != bytes(4 * MIB)
    pool.master.delete(kept)
    pool.master.collect(pool.sr)
    verify(pool.third, pool.sr, disk, writer.data)
    verify_tidy(pool, 1)
