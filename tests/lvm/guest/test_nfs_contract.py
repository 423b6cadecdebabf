"""The contract of drivers, kept by the NFS driver with a server of the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.drivers.nfs import NfsSr
from tests.drivers.contract.place import Place
from tests.drivers.contract.suite import *  # noqa: F403 - the suite
from tests.support.servers.nfs import ROOT, NfsServer


class NfsPlace(Place):
    """A new folder of the export."""

    driver = NfsSr
    one_sr = False
    version = "3"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.name = f"{folder.parent.name}-{folder.name}-{self.version}"
        (ROOT / self.name).mkdir()

    def device_config(self) -> dict[str, str]:
        path = NfsServer.path(self.name, self.version)
        return {"server": "127.0.0.1", "serverpath": path, "nfsversion": self.version}

    def foreign(self) -> dict[str, str]:
        (ROOT / self.name / "letter.txt").write_text("dear")
        return {**self.device_config(), "nosubdir": "true"}

    def foreign_content(self) -> bytes:
        return b"".join(path.read_bytes() for path in (ROOT / self.name).iterdir())


class Nfs4Place(NfsPlace):
    """As clients of version 4 see it."""

    version = "4.2"


@pytest.fixture(params=[NfsPlace, Nfs4Place])
def place(request: pytest.FixtureRequest, nfs_server: NfsServer, tmp_path: Path) -> Iterator[Place]:
    """An old and a new version of the protocol."""
    made = request.param(tmp_path)
    yield made
    made.close()
