"""A disk that another host serves without a host key, and hosts that do not answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datapath.clients import content, qemu_io
from tests.hosts.disks import SIZE, layered, verify
from tests.hosts.hosts import Pool
from tests.support.site import MIB
from tests.witness import from_config

pytestmark = pytest.mark.one_in(2)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """Three hosts that share an SR."""
    made = Pool(tmp_path)
    yield made
    made.close()


def test_the_master_asks_who_serves_what(pool: Pool, cow_format: str) -> None:
    disk, data = layered(pool, cow_format)
    model = bytearray(data)
    uri = from_config.attach(pool.second, pool.location, pool.sr, disk)
    assert pool.master.sm("vdi", "show", disk)["active"] == []
    qemu_io(uri, "write -P 7 4M 64k", "flush")
    pool.master.collect(pool.sr)
    (said,) = pool.master.sm("vdi", "show", disk)["active"]
    assert (said["host"], said["mode"], said["state"]) == ("beta", "RW", "served")
    qemu_io(uri, "write -P 8 5M 64k", "flush")
    model[4 * MIB : 4 * MIB + (64 << 10)] = b"\7" * (64 << 10)
    model[5 * MIB : 5 * MIB + (64 << 10)] = b"\x08" * (64 << 10)
    assert content(uri, SIZE) == bytes(model)
    from_config.detach(pool.second, pool.location, pool.sr, disk)
    assert pool.master.sm("vdi", "show", disk)["active"] == []
    verify(pool.master, pool.sr, disk, bytes(model))


def test_a_silent_host_holds_back_what_has_its_key(pool: Pool, cow_format: str) -> None:
    used, _ = layered(pool, cow_format)
    free, data = layered(pool, cow_format)
    pool.second.activate(used)
    pool.second.kill()
    done = pool.master.collect(pool.sr)
    assert used in pool.master.images(pool.sr)
    assert done["waiting"]
    assert pool.master.sm("vdi", "show", free)["parent"] is None
    verify(pool.master, pool.sr, free, data)
    assert pool.master.sm("vdi", "show", used)["parent"] is not None
