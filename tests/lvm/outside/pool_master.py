"""The first host of a pool, master of its SR, with the database of the pool; plays the scenes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lvm.outside.pool_host import PoolHost, reach
from tests.lvm.outside.pool_scenes import SCENES, Scene
from tests.pool.postgresql_server import PostgresqlServer
from tests.support.uml.meeting import RESULT, Meeting
from tests.support.uml.two_hosts import ADDRESSES

USERS = "host all all 10.0.0.0/24 trust\n"
"""Who the database server believes, in its pg_hba.conf."""


def main() -> None:
    """Play the first host."""
    meeting = Meeting.from_arguments()
    with _database() as url:
        meeting.tell("database", url)
        host = PoolHost(meeting.name, url, meeting.hear("outside", "a"))
        host.start()
        meeting.hear("b", "started")
        other = reach("b")
        created = host.sm(
            *("sr", "create", "--shared", "--type", "lvm", "--name", "shared"),
            *("--device-config", "device=/dev/ubda"),
            *("--device-config", "allocation=thin"),
        )
        scene = Scene(host, other, str(created["uuid"]))
        other.sm("sr", "attach", scene.sr)
        for name in meeting.hear("outside", "scenes"):
            try:
                SCENES[name](scene)
            except BaseException:
                for each in (host, other):
                    print(each.said(), file=sys.stderr)
                raise
        other.sm("sr", "detach", scene.sr)
        host.sm("sr", "destroy", scene.sr)
        other.end()
        host.kill()
    meeting.tell(RESULT)


@contextmanager
def _database() -> Iterator[str]:
    """A server that can be reached from the other host; the URL of a database of it."""
    server = PostgresqlServer()
    with (server.data / "pg_hba.conf").open("a") as file:
        file.write(USERS)
    server.start(listen_addresses=ADDRESSES["a"])
    try:
        yield f"postgresql://postgres@{ADDRESSES['a']}/{server.create_database()}"
    finally:
        server.stop()


if __name__ == "__main__":
    main()
