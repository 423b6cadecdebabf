"""Pools of all kinds, each with an SR, as a test meets them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sm.pool.base import Pool
from sm.pool.embedded import EmbeddedPool
from sm.pool.xapi import XapiPool
from tests.pool.postgresql_server import PostgresqlServer
from tests.pool.xapi_server import XapiServer


@dataclass(frozen=True)
class PoolSite:
    """A pool with one SR, `sr_ref`, plugged on this host; `again` opens the pool once more.

    `place` is the path or the URL of its database, or the socket of its service.
    """

    place: Path | str
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
    yield from embedded_site(database)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    with PostgresqlServer() as server:
        yield server


@pytest.fixture
def server(postgresql_server: PostgresqlServer) -> Iterator[PostgresqlServer]:
    """The PostgreSQL server, for a test that may end it, or start it with other options."""
    yield postgresql_server
    if postgresql_server.options or not postgresql_server.running:
        postgresql_server.restart()


@pytest.fixture
def postgresql_database(server: PostgresqlServer) -> str:
    """The name of an empty database. It is not dropped: that takes longer than all else."""
    return server.create_database()


@pytest.fixture
def postgresql_url(server: PostgresqlServer, postgresql_database: str) -> str:
    return server.url(postgresql_database)


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[PoolSite]:
    yield from embedded_site(postgresql_url)


@pytest.fixture(params=["embedded", "postgresql"])
def kept(request: pytest.FixtureRequest) -> PoolSite:
    """A pool in a database of ours."""
    found: PoolSite = request.getfixturevalue(request.param)
    return found


def embedded_site(place: Path | str) -> Iterator[PoolSite]:
    pools: list[EmbeddedPool] = []

    def again() -> EmbeddedPool:
        pools.append(EmbeddedPool(place, HOST_UUID, "here"))
        return pools[-1]

    pool = again()
    sr_ref = pool.introduce_sr(uuid=SR_UUID, sr_type="file", name_label="disks")
    pbd = pool.create_pbd(sr_ref, pool.this_host().ref, {"location": "/srv/pool0"})
    pool.set_pbd_attached(pbd, True)
    yield PoolSite(place, pool, HOST_UUID, sr_ref, SR_UUID, again)
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

    yield PoolSite(xapi_server.path, again(), HOST_UUID, sr_ref, SR_UUID, again)
    for opened in pools:
        opened.close()
    assert not xapi_server.sessions


@pytest.fixture(params=["embedded", "postgresql", "xapi"])
def site(request: pytest.FixtureRequest) -> PoolSite:
    found: PoolSite = request.getfixturevalue(request.param)
    return found
