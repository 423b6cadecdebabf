"""The commands `sm host`."""

from __future__ import annotations

import uuid
from argparse import Namespace
from typing import Any

from sm import keys
from sm.cli.admin import Admin
from sm.errors import InvalidArgument, SmError, SrInUse
from sm.hosts.calls import hello
from sm.pool.base import HostRecord
from sm.remote import address as addresses
from sm.uuids import require_uuid


def add(admin: Admin, options: Namespace) -> None:
    """Make a host known to the pool.

    A host that uses the pool database makes itself known, and its sm-hostd says where it answers;
    this is for one that is to be known before. Its sm.conf then names the UUID: host_uuid.
    """
    host_uuid = options.uuid or str(uuid.uuid4())
    require_uuid(host_uuid)
    if options.address:
        addresses.parse(options.address)
    if any(host.uuid == host_uuid for host in admin.pool.hosts()):
        raise InvalidArgument(f"the pool knows host {host_uuid} already")
    ref = admin.records.add_host(host_uuid, options.name)
    admin.records.set_host_address(ref, options.address)
    admin.output.result({"uuid": host_uuid}, host_uuid)


def list_(admin: Admin, options: Namespace) -> None:
    """All hosts, and whether each answers when it is called."""
    rows = [_row(admin, host) for host in admin.pool.hosts()]
    admin.output.table(
        rows,
        {
            "uuid": "UUID",
            "name": "NAME",
            "address": "ADDRESS",
            "this_host": "THIS",
            "answers": "ANSWERS",
            "problem": "PROBLEM",
        },
    )


def _row(admin: Admin, host: HostRecord) -> dict[str, Any]:
    row: dict[str, Any] = {
        "uuid": host.uuid,
        "name": host.name_label,
        "address": host.address or None,
        "this_host": host.ref == admin.pool.this_host().ref,
    }
    try:
        said = hello(admin.pool, host.ref)
    except SmError as error:
        return {**row, "answers": False, "version": None, "boot": None, "problem": error.detail}
    known = {"version": said["version"], "boot": said["boot"], "problem": None}
    return {**row, "answers": True, **known}


def remove(admin: Admin, options: Namespace) -> None:
    """Take a host out of the pool that has detached everything and will not come back."""
    host = admin.find_host(options.host)
    if host.ref == admin.pool.this_host().ref:
        raise InvalidArgument("a host cannot remove itself; do it on another one")
    active = [
        vdi.uuid
        for sr in admin.pool.srs()
        for vdi in admin.pool.vdis(sr.ref)
        if host.ref in keys.active_hosts(vdi.sm_config)
    ]
    if active:
        raise SrInUse(f"active on that host: {', '.join(active)}")
    admin.records.remove_host(host.ref)
    admin.output.result({"uuid": host.uuid, "removed": True}, "")
