"""An SR to be put into disorder, and what the doctor says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sm.owner import Owner
from sm.repository import Repository
from tests.support import guest
from tests.support.site import MIB, Site


def examine(site: Site, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and findings."""
    code, text = site.run("--json", "doctor", *options)
    document = json.loads(text)
    assert document["healthy"] == (not document["findings"])
    return code, document["findings"]


def codes(site: Site, *options: str) -> list[str]:
    """The codes that are found, with the exit status that fits."""
    code, found = examine(site, *options)
    assert code == (4 if found else 0)
    return [each["code"] for each in found]


class Scene:
    """An SR with a disk that has content, and a snapshot of it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.sr = site.create_sr()
        self.disk = site.create_vdi(self.sr, "qcow2", name="web")
        guest.write(site.chain(self.sr, self.disk), 0, MIB, 7)
        self.snapshot = site.snapshot(self.disk)
        guest.write(site.chain(self.sr, self.disk), MIB, MIB, 8)
        self.digests = {each: self._digest(each) for each in (self.disk, self.snapshot)}

    @property
    def folder(self) -> Path:
        return self.site.folder / "store"

    @property
    def repository(self) -> Repository:
        return self.site.repository(self.sr)

    def path(self, vdi: str) -> Path:
        return self.folder / f"{vdi}.qcow2"

    def record(self, vdi: str) -> str:
        """The reference of a VDI."""
        return self.repository.vdi(vdi).ref

    def _digest(self, vdi: str) -> str:
        return guest.digest(self.site.chain(self.sr, vdi))

    def verify(self) -> None:
        """All disks read as before."""
        assert {each: self._digest(each) for each in self.digests} == self.digests

    def gone(self) -> str:
        """An owner that has ended, of this host."""
        host = self.repository.settings.host_uuid
        return replace(Owner.this_process(host, "test"), started=1).text
