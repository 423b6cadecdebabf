"""One file under several names: what is done to one would be done to all, so nothing is done."""

from __future__ import annotations

import os
import uuid

import pytest

from tests.support import guest
from tests.support.guest import Model
from tests.support.site import MIB, Refused, Site

pytestmark = pytest.mark.one_in(2)


@pytest.mark.parametrize("scanned", [False, True])
def test_a_second_name_of_a_disk_harms_nobody(
    site: Site, cow_format: str, *, scanned: bool
) -> None:
    sr = site.create_sr()
    disk, other = (site.create_vdi(sr, cow_format, 16 * MIB) for _ in range(2))
    model = Model(16 * MIB)
    model.write(site.chain(sr, disk), 0, 4 * MIB, 1)
    alias = str(uuid.uuid4())
    second = site.folder / "store" / f"{alias}.{cow_format}"
    os.link(site.folder / "store" / f"{disk}.{cow_format}", second)
    if scanned:
        site.sm("sr", "scan", sr)
    found = site.sm("doctor", "--sr", sr)["findings"]
    assert {each["code"] for each in found} >= {"image-twice"}
    for command in ("delete", "snapshot", "activate"):
        with pytest.raises(Refused, match=r"one file|no VDI"):
            site.sm("vdi", command, alias)
        with pytest.raises(Refused, match="one file"):
            site.sm("vdi", command, disk)
    site.sm("gc", "run", "--sr", sr)
    second.unlink()
    site.sm("sr", "scan", sr)
    assert guest.content(site.chain(sr, disk)) == model.data
    site.activate(disk)
    site.deactivate(disk)
    # The rest of the SR went on working.
    site.snapshot(other)
    site.delete(other)
