"""The contract of drivers, kept by the NFS driver with a server of the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm.drivers.nfs import NfsSr
from tests.drivers.contract.place import Place
from tests.drivers.contract.suite import (  # noqa: F401 - what is tried here
    host,
    test_a_disk_lives,
    test_a_place_can_be_used_again,
    test_a_probe_finds_what_was_created_and_leaves_nothing,
    test_an_sr_that_is_not_there_is_not_attached,
    test_attach_and_detach_may_be_repeated,
    test_hostile_values_are_refused,
    test_it_says_what_it_can_and_how_it_is_reached,
    test_what_belongs_to_others_is_not_touched,
    test_what_is_there_is_not_created_again,
)
from tests.support.servers.nfs import ROOT, NfsServer

pytestmark = pytest.mark.world


class NfsPlace(Place):
    """A new folder of the export."""

    driver = NfsSr
    one_sr = False
    formats = ("qcow2",)
    version = "4.2"

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


@pytest.fixture
def place(nfs_server: NfsServer, tmp_path: Path) -> NfsPlace:
    """As clients of a new version see it."""
    return NfsPlace(tmp_path)
