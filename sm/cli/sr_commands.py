"""The commands `sm sr`."""

from __future__ import annotations

import uuid
from argparse import Namespace
from typing import Any

from sm import catalogue
from sm.cli.admin import Admin
from sm.cli.sizes import parse_size, show_size
from sm.drivers.registry import driver_class
from sm.errors import InvalidArgument, SrExists, SrInUse, SrUnavailable
from sm.pool.base import SrRecord
from sm.secrets import masked
from sm.sr import reach


def create(admin: Admin, options: Namespace) -> None:
    """Make an SR, its records, and attach it."""
    sr_uuid = options.uuid or str(uuid.uuid4())
    device_config = _device_config(options)
    sr = _introduce(admin, sr_uuid, options, device_config)
    try:
        admin.call("sr_create", sr, str(parse_size(options.size)))
        admin.call("sr_attach", sr)
    except BaseException:
        admin.records.forget_sr(sr.ref)
        raise
    _set_attached(admin, sr, attached=True)
    admin.output.result({"uuid": sr_uuid}, sr_uuid)


def probe(admin: Admin, options: Namespace) -> None:
    """The SRs that are on a storage; what must be chosen first is told by the error."""
    driver = driver_class(options.type)(admin.settings)
    found = [each.members() for each in driver.probe(_device_config(options))]
    lines = [", ".join(each.values()) for each in found]
    admin.output.result(found, "\n".join(lines) or "no SR")


def introduce(admin: Admin, options: Namespace) -> None:
    """Take over an SR that exists on its storage."""
    device_config = _device_config(options)
    found = driver_class(options.type)(admin.settings).probe(device_config)
    uuids = [sr.uuid for sr in found]
    sr_uuid = options.uuid or (uuids[0] if len(uuids) == 1 else None)
    if sr_uuid is None:
        raise SrUnavailable("no SR was found there; give --uuid if the storage has no mark")
    sr = _introduce(admin, sr_uuid, options, device_config)
    try:
        if not options.name:
            _take_name(admin, sr)
        admin.call("sr_attach", sr)
    except BaseException:
        admin.records.forget_sr(sr.ref)
        raise
    _set_attached(admin, sr, attached=True)
    admin.output.result({"uuid": sr_uuid}, sr_uuid)


def _take_name(admin: Admin, sr: SrRecord) -> None:
    """Give an SR the name that its storage remembers."""
    driver = driver_class(sr.type)(admin.settings)
    reach(driver, sr.uuid, admin.device_config(sr))
    found = catalogue.recall(admin.repository(sr))
    label, description = found.name_label, sr.name_description or found.name_description
    admin.records.rename_sr(sr.ref, name_label=label, name_description=description)


def _introduce(
    admin: Admin, sr_uuid: str, options: Namespace, device_config: dict[str, str]
) -> SrRecord:
    driver_class(options.type)
    if any(sr.uuid == sr_uuid for sr in admin.pool.srs()):
        raise SrExists(f"the pool knows SR {sr_uuid} already")
    ref = admin.records.introduce_sr(
        uuid=sr_uuid,
        name_label=options.name,
        name_description=options.description,
        sr_type=options.type,
        shared=options.shared,
    )
    admin.records.create_pbd(ref, admin.pool.this_host().ref, device_config)
    return admin.pool.sr(ref)


def _device_config(options: Namespace) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in options.device_config:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise InvalidArgument(f"device-config {text!r} must be KEY=VALUE")
        found[key] = value
    return found


def _set_attached(admin: Admin, sr: SrRecord, *, attached: bool) -> None:
    host = admin.pool.this_host().ref
    for pbd in admin.pool.pbds(sr.ref):
        if pbd.host == host:
            admin.records.set_pbd_attached(pbd.ref, attached)


def list_(admin: Admin, options: Namespace) -> None:
    """All SRs."""
    rows = [_row(admin, sr) for sr in admin.pool.srs()]
    columns = {
        "uuid": "UUID",
        "name": "NAME",
        "type": "TYPE",
        "attached": "ATTACHED",
        "vdis": "DISKS",
        "size": "SIZE",
        "used": "USED",
    }
    if admin.output.as_json:
        admin.output.result(rows, "")
        return
    shown = [
        {
            **row,
            "size": show_size(row["physical_size"]),
            "used": show_size(row["physical_utilisation"]),
        }
        for row in rows
    ]
    admin.output.table(shown, columns)


def show(admin: Admin, options: Namespace) -> None:
    """One SR."""
    row = _row(admin, admin.find_sr(options.sr))
    admin.output.result(row, "\n".join(f"{key}: {value}" for key, value in row.items()))


def _row(admin: Admin, sr: SrRecord) -> dict[str, Any]:
    host = admin.pool.this_host().ref
    pbds = [pbd for pbd in admin.pool.pbds(sr.ref) if pbd.host == host]
    driver = driver_class(sr.type)(admin.settings)
    return {
        "uuid": sr.uuid,
        "name": sr.name_label,
        "description": sr.name_description,
        "type": sr.type,
        "shared": sr.shared,
        "master": _master(admin, sr),
        "attached": driver.attachments.find(sr.uuid) is not None,
        "vdis": sum(vdi.managed for vdi in admin.pool.vdis(sr.ref)),
        "virtual_allocation": sr.virtual_allocation,
        "physical_size": sr.physical_size,
        "physical_utilisation": sr.physical_utilisation,
        "device_config": masked(pbds[0].device_config) if pbds else {},
        "sm_config": masked(sr.sm_config),
        "other_config": masked(sr.other_config),
    }


def _master(admin: Admin, sr: SrRecord) -> str | None:
    """The name of the host that changes the chains of a shared SR, if the pool keeps that."""
    names = {host.ref: host.name_label for host in admin.pool.hosts()}
    return names.get(sr.master)


def scan(admin: Admin, options: Namespace) -> None:
    """Bring the records in line with the storage; report what is wrong with images."""
    sr = admin.find_sr(options.sr)
    admin.call("sr_scan", sr)
    forest = admin.repository(sr).look("sr scan").forest
    problems = {node.uuid: forest.defect(node.uuid) for node in forest}
    found = {uuid_: text for uuid_, text in problems.items() if text}
    document = {"uuid": sr.uuid, "images": len(forest.nodes), "problems": found}
    lines = [f"{uuid_}: {text}" for uuid_, text in found.items()]
    admin.output.result(document, "\n".join([f"{len(forest.nodes)} images", *lines]))


def release(admin: Admin, options: Namespace) -> None:
    """Let a record of the journal that was set aside hold nothing any more.

    Do so when all disks of its tree are found to be whole. The record itself is kept.
    """
    repository = admin.repository(admin.find_sr(options.sr))
    repository.require_master()
    with repository.locked("sr release"):
        name = repository.journal.release(options.record)
    admin.output.result({"uuid": repository.uuid, "record": name}, name)


def trim(admin: Admin, options: Namespace) -> None:
    """Tell the devices of an SR which of their space is free, so that they may use it."""
    sr = admin.find_sr(options.sr)
    freed = int(str(admin.call("sr_trim", sr)))
    admin.output.result({"uuid": sr.uuid, "bytes": freed}, f"{show_size(freed)} discarded")


def attach(admin: Admin, options: Namespace) -> None:
    """Make an SR usable on this host.

    A shared SR that this host does not know yet is reached as its master reaches it, unless
    --device-config says otherwise.
    """
    sr = admin.find_sr(options.sr)
    made = _first_pbd(admin, sr, _device_config(options))
    try:
        admin.call("sr_attach", sr)
    except BaseException:
        if made is not None:
            admin.records.delete_pbd(made)
        raise
    _set_attached(admin, sr, attached=True)
    admin.output.result({"uuid": sr.uuid, "attached": True}, "")


def _first_pbd(admin: Admin, sr: SrRecord, device_config: dict[str, str]) -> str | None:
    """The PBD of this host, made if there is none; its reference if it was made."""
    host = admin.pool.this_host().ref
    pbds = {pbd.host: pbd for pbd in admin.pool.pbds(sr.ref)}
    if host in pbds:
        if device_config and device_config != dict(pbds[host].device_config):
            raise InvalidArgument("this host has another device-config for the SR; forget it first")
        return None
    if not sr.shared:
        raise SrUnavailable(f"SR {sr.uuid} is not shared, and belongs to another host")
    if not device_config and sr.master in pbds:
        device_config = dict(pbds[sr.master].device_config)
    return admin.records.create_pbd(sr.ref, host, device_config)


def detach(admin: Admin, options: Namespace) -> None:
    """Release an SR on this host."""
    sr = admin.find_sr(options.sr)
    admin.call("sr_detach", sr)
    _set_attached(admin, sr, attached=False)
    admin.output.result({"uuid": sr.uuid, "attached": False}, "")


def destroy(admin: Admin, options: Namespace) -> None:
    """Destroy an empty SR and its records."""
    sr = admin.find_sr(options.sr)
    host = admin.pool.this_host().ref
    if any(pbd.currently_attached and pbd.host != host for pbd in admin.pool.pbds(sr.ref)):
        raise SrInUse("another host has it attached; detach it there first: sm sr detach")
    admin.call("sr_attach", sr)
    admin.call("sr_delete", sr)
    admin.records.forget_sr(sr.ref)
    admin.output.result({"uuid": sr.uuid, "destroyed": True}, "")


def forget(admin: Admin, options: Namespace) -> None:
    """Remove the records of an SR and leave its storage as it is."""
    sr = admin.find_sr(options.sr)
    if any(pbd.currently_attached for pbd in admin.pool.pbds(sr.ref)):
        raise SrInUse("it is attached; detach it first: sm sr detach")
    admin.records.forget_sr(sr.ref)
    admin.output.result({"uuid": sr.uuid, "forgotten": True}, "")
