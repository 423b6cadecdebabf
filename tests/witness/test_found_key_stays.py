"""Whoever fails to use a disk, or leaves its SR, looks at who uses it, and takes no key that is
somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datapath.clients import qemu_io
from tests.hosts.hosts import Host
from tests.support.patience import until
from tests.support.site import MIB, Refused, Site

pytestmark = pytest.mark.one_in(2)


def _keys(site: Site, vdi: str) -> list[str]:
    sm_config = site.sm("vdi", "show", vdi)["sm_config"]
    return [value for key, value in sm_config.items() if key.startswith("host_")]


def test_a_failed_activation_leaves_the_key_that_it_found(tmp_path: Path, cow_format: str) -> None:
    """A root was copied with the identity of its host: the copy cannot see the processes."""
    database = tmp_path / "pool.db"
    first = Host(tmp_path, "alpha", database)
    location = ("--device-config", f"location={tmp_path / 'images'}")
    sr = str(first.sm("sr", "create", "--name", "images", *location)["uuid"])
    vdi = first.create_vdi(sr, cow_format, 8 * MIB)
    copy = Host(tmp_path, "copy", database, host_uuid=first.uuid, host_name="alpha")
    copy.sm("sr", "attach", sr)
    uri = first.activate(vdi)
    with pytest.raises(Refused):
        copy.activate(vdi)
    assert _keys(first, vdi) == ["RW"]
    qemu_io(uri, "write -P 1 1M 64k", "flush")
    first.deactivate(vdi)
    assert _keys(first, vdi) == []


def test_a_detach_looks_again_when_it_has_its_locks(site: Site, cow_format: str) -> None:
    sr = site.create_sr()
    vdi = site.create_vdi(sr, cow_format, 8 * MIB)
    with site.repository(sr).locks.hold("collector", sr, "test"):
        detaching = site.start("sr", "detach", sr)
        holds = site.root / "run" / "gc"
        until(lambda: list(holds.glob("*.hold")), "the detach waits for its locks")
        uri = site.activate(vdi)
    with pytest.raises(Refused, match="active on this host"):
        site.result(detaching)
    assert site.sm("sr", "show", sr)["attached"]
    qemu_io(uri, "write -P 1 1M 64k", "flush")
    assert _keys(site, vdi) == ["RW"]
    site.deactivate(vdi)
    site.sm("sr", "detach", sr)


def test_an_attach_keeps_the_key_of_a_disk_that_is_served(site: Site, cow_format: str) -> None:
    """What says that the SR is attached was lost, and its processes were not."""
    sr = site.create_sr()
    vdi = site.create_vdi(sr, cow_format, 8 * MIB)
    uri = site.activate(vdi)
    (site.root / "run" / "attached" / f"{sr}.json").unlink()
    site.sm("sr", "attach", sr)
    assert _keys(site, vdi) == ["RW"]
    qemu_io(uri, "write -P 1 1M 64k", "flush")
    site.deactivate(vdi)
