"""Pools of both kinds, each with an SR, as a test meets them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sm.pool.base import Pool
from sm.pool.embedded import EmbeddedPool
from sm.pool.xapi import XapiPool
from tests.pool.xapi_server import XapiServer


@dataclass(frozen=True)
class PoolSite:
    """A pool with one SR, `sr_ref`, plugged on this host; `again` opens the pool once more."""

    pool: Pool
    host_uuid: str
    sr_ref: str
    sr_uuid: str
    again: Callable[[], Pool]


SR_UUID = "5a9c7c0e-2a41-4b6f-9a53-6f2d1c0e9b77"
HOST_UUID = "0e6fa2d5-7f6f-4f0f-9a92-9b1a1f3c7a11"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "state" / "pool.db"


@pytest.fixture
def embedded(database: Path) -> Iterator[PoolSite]:
    pools: list[EmbeddedPool] = []

    def again() -> EmbeddedPool:
        pools.append(EmbeddedPool(database, HOST_UUID, "here"))
        return pools[-1]

    pool = again()
    sr_ref = pool.introduce_sr(uuid=SR_UUID, sr_type="file", name_label="disks")
    pbd = pool.create_pbd(sr_ref, pool.this_host().ref, {"location": "/srv/pool0"})
    pool.set_pbd_attached(pbd, True)
    yield PoolSite(pool, HOST_UUID, sr_ref, SR_UUID, again)
    for opened in pools:
        opened.close()


@pytest.fixture
def xapi_server(tmp_path: Path) -> Iterator[XapiServer]:
    # An underscore, which XenAPI's own transport cannot reach.
    with XapiServer(tmp_path / "xapi_socket") as server:
        yield server


@pytest.fixture
def xapi(xapi_server: XapiServer, tmp_path: Path) -> Iterator[PoolSite]:
    host = xapi_server.add_host("here", HOST_UUID)
    inventory = xapi_server.write_inventory(tmp_path / "inventory", host)
    sr_ref = xapi_server.add_sr("file", SR_UUID, name_label="disks")
    xapi_server.add_pbd(sr_ref, host, {"location": "/srv/pool0"}, currently_attached=True)
    pools: list[XapiPool] = []

    def again() -> XapiPool:
        pools.append(XapiPool(xapi_server.path, inventory))
        return pools[-1]

    yield PoolSite(again(), HOST_UUID, sr_ref, SR_UUID, again)
    for opened in pools:
        opened.close()
    assert not xapi_server.sessions


@pytest.fixture(params=["embedded", "xapi"])
def site(request: pytest.FixtureRequest) -> PoolSite:
    found: PoolSite = request.getfixturevalue(request.param)
    return found
