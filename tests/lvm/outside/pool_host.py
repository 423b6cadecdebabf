"""A host of a pool in a guest of its own, and the same host as another guest has it at hand.

Both guests have a root, an `sm-hostd` that answers over TLS, and the first has the PostgreSQL
server with the pool. The tests run on the first; what the second is to do it is told by calls over
the network (`multiprocessing.managers`), which carry exceptions back.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

from sm.volumes.lvm.mappings import active
from sm.volumes.lvm.store import LvmStore
from tests.datapath.clients import Writer, content
from tests.hosts.hosts import Host
from tests.lvm.outside import dying_hostd
from tests.support import guest
from tests.support.patience import patient
from tests.support.uml.two_hosts import ADDRESSES

HOSTD_PORT = 4711
CALLS_PORT = 4712
LOG_LINES = 60
KEY = b"between two guests"


class PoolHost(Host):
    """One of the two hosts; every argument and result can be sent to another guest."""

    def __init__(self, name: str, database: str, credentials: dict[str, str]) -> None:
        self.ended = threading.Event()
        self._writer: Writer | None = None
        listen = f"tls://{ADDRESSES[name]}:{HOSTD_PORT}"
        super().__init__(
            Path("/tmp/pool"),
            name,
            database,
            **credentials,
            host_listen=listen,
            thin_spare_mib="16",
        )

    def start_dying(self, how: str) -> None:
        """Have another `sm-hostd` in place of the one that runs; see `dying_hostd`."""
        self.kill()
        argv = [sys.executable, dying_hostd.__file__, str(self.root), how]
        self.service = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.wait()

    def was_killed(self) -> bool:
        """Whether its `sm-hostd` was killed, by somebody else; there is none then."""
        assert self.service is not None
        self.service.communicate(timeout=patient(10))
        code, self.service = self.service.returncode, None
        return code == -signal.SIGKILL

    def begin_writing(self, uri: str, data: bytes) -> None:
        """Start a guest that writes to a disk and reads it again, which holds `data` at first."""
        assert self._writer is None
        self._writer = Writer(uri, data).__enter__()

    def go_on(self, rounds: int) -> None:
        """Wait until the guest has done so many more rounds."""
        assert self._writer is not None
        self._writer.go_on(rounds)

    def rounds(self) -> int:
        """How many rounds the guest has done."""
        assert self._writer is not None
        return self._writer.rounds

    def end_writing(self) -> bytes:
        """Stop the guest; returns what its disk must hold."""
        assert self._writer is not None
        writer, self._writer = self._writer, None
        writer.stop()
        return bytes(writer.data)

    def read(self, uri: str, size: int) -> bytes:
        """A disk in use, read over NBD by libnbd."""
        return content(uri, size)

    def read_chain(self, sr: str, vdi: str) -> bytes:
        """A disk that nobody uses, by a reader of others where there is one for the format."""
        chain = self.chain(sr, vdi)
        assert guest.check_clean(chain) == []
        return guest.content(chain)

    def follow(self, sr: str) -> None:
        """Do what each use of a volume begins with."""
        self.repository(sr).store.prepare([])

    def mapped(self, sr: str) -> set[str]:
        """The names of the volumes that are mapped here; "removed" for one that the group lost.

        Raises AssertionError unless each mapping has the name of its volume in the group as it is
        now, and the paths below /dev are those of the mappings and lead to them.
        """
        store = self.repository(sr).store
        assert isinstance(store, LvmStore)
        group = store._group.now()
        names = {volume.id: volume.name for volume in group.volumes.values()}
        found = active(group)
        expected = {}
        for identity in found.keys() & names.keys():
            name, mapping = names[identity], found[identity]
            assert mapping.name == "-".join(each.replace("-", "--") for each in (group.name, name))
            expected[name] = (mapping.place / "dev").read_text().strip()
        if not found.keys() - names.keys():
            assert devices_below(Path("/dev", group.name)) == expected
        return {names.get(identity, "removed") for identity in found}

    def said(self) -> str:
        """The end of its log."""
        lines = (self.root / "log" / "sm.log").read_text().splitlines()
        return "\n".join(lines[-LOG_LINES:])

    def end(self) -> None:
        """End its service; the guest has nothing more to do."""
        self.kill()
        self.ended.set()


class Calls(BaseManager):
    """Calls of the second host's methods from the first."""


def serve(host: PoolHost) -> None:
    """Do what the first host says until that is `end`."""
    Calls.register("host", callable=lambda: host)
    server = Calls((ADDRESSES[host.name], CALLS_PORT), KEY).get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host.ended.wait()


def reach(name: str) -> Any:
    """A host in another guest; it has the methods of `PoolHost`."""
    Calls.register("host")
    calls = Calls((ADDRESSES[name], CALLS_PORT), KEY)
    calls.connect()
    return calls.host()  # type: ignore[attr-defined]


def devices_below(folder: Path) -> dict[str, str]:
    """The numbers of the devices that the paths of a folder lead to, as the kernel writes them."""
    numbers = {path.name: path.stat().st_rdev for path in folder.iterdir()}
    return {name: f"{os.major(told)}:{os.minor(told)}" for name, told in numbers.items()}
