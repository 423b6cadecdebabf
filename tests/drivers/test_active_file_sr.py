"""A disk that XAPI attaches and activates, used as a file or over NBD by programs of others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.datapath.clients import content, qemu_io
from tests.drivers.test_file_sr import Host
from tests.support import guest
from tests.support.site import MIB, Site


def shown_as_file(site: Site) -> Host:
    """An SR of a host that shows disks as files."""
    site.configure(expose="fuse", pool="embedded")
    made = Host(site)
    assert made.plugin.call("sr_create", "0") is None
    assert made.plugin.call("sr_attach") is None
    return made


@pytest.mark.own_namespaces
def test_params_is_the_file_of_the_disk(site: Site) -> None:
    as_file = shown_as_file(site)
    disk = as_file.create()["uuid"]
    members = as_file.vdi(disk)
    reply = as_file.plugin.call("vdi_attach", "true", **members)
    assert reply["params_nbd"] == ""
    shown = Path(reply["params"])
    assert as_file.plugin.call("vdi_activate", "true", **members) is None
    try:
        assert shown.stat().st_size == 8 * MIB
        with shown.open("r+b", buffering=0) as file:
            file.seek(MIB)
            file.write(b"\x05" * MIB)
            os.fsync(file.fileno())
        snapshot = as_file.plugin.call("vdi_snapshot", **members)["uuid"]
        with shown.open("r+b", buffering=0) as file:
            file.seek(3 * MIB)
            file.write(b"\x06" * MIB)
            os.fsync(file.fileno())
        expected = bytes(MIB) + b"\x05" * MIB + bytes(MIB) + b"\x06" * MIB + bytes(4 * MIB)
        assert shown.read_bytes() == expected
    finally:
        assert as_file.plugin.call("vdi_deactivate", **members) is None
    assert not shown.exists()
    sr = as_file.sr_uuid
    assert guest.content(site.chain(sr, disk)) == expected
    kept = expected[: 2 * MIB] + bytes(6 * MIB)
    assert guest.content(site.chain(sr, snapshot)) == kept


@pytest.mark.own_namespaces
def test_a_format_that_cannot_be_shown_as_a_file_is_refused(site: Site) -> None:
    as_file = shown_as_file(site)
    disk = as_file.create(vdi_sm_config={"image-format": "vhd"})["uuid"]
    members = as_file.vdi(disk)
    assert as_file.plugin.fault("vdi_activate", "true", **members).faultCode == 38
    assert not [key for key in as_file.pool.vdi_by_uuid(disk).sm_config if key.startswith("host_")]


def test_a_deleted_range_gives_space_back(site: Site) -> None:
    """The guest's discards reach the image file."""
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2", 32 * MIB)
    uri = site.activate(disk)
    qemu_io(uri, f"write -P 1 0 {16 * MIB}", "flush")
    path = site.chain(sr, disk)[0].path
    full = path.stat().st_blocks * 512
    qemu_io(uri, f"discard {2 * MIB} {12 * MIB}", "flush")
    assert path.stat().st_blocks * 512 < full - 10 * MIB
    assert content(uri, 32 * MIB)[: 2 * MIB] == b"\x01" * (2 * MIB)
