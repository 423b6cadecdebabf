"""The commands `sm vdi`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sm import activation, commands, keys
from sm import snapshot as copies
from sm.cli.admin import Admin
from sm.cli.sizes import parse_size, show_size
from sm.errors import InvalidArgument, SmError, VdiUnavailable
from sm.hosts.calls import ask
from sm.pool.base import NULL_REF, PoolAdmin, SrRecord, VdiRecord
from sm.repository import Repository
from sm.scan import Scan
from sm.smapi.request import require_xml_text

EXIT_DAMAGED = 3


def create(admin: Admin, options: Namespace) -> None:
    """Make an empty VDI."""
    sr = admin.find_sr(options.sr)
    hints = {keys.IMAGE_FORMAT: options.format} if options.format else {}
    size = str(parse_size(options.size))
    reply = admin.call(
        "vdi_create",
        sr,
        *(size, options.name, options.description, "", "false", "19700101T00:00:00Z", "", "false"),
        vdi_type="user",
        vdi_sm_config=hints,
    )
    _say_new(admin, reply)


def snapshot(admin: Admin, options: Namespace) -> None:
    """Keep the present content of a VDI as a new one that stays as it is."""
    _copy(admin, options, "vdi_snapshot")


def clone(admin: Admin, options: Namespace) -> None:
    """Make a writable VDI with the present content of another."""
    _copy(admin, options, "vdi_clone")


def _copy(admin: Admin, options: Namespace, command: str) -> None:
    if options.dry_run:
        _preview(admin, options, command)
        return
    require_xml_text(options.name)
    _, source = admin.find_vdi(options.vdi)
    reply = admin.call_vdi(command, source.uuid)
    new = str(_mapping(reply)["uuid"])
    name = options.name or _name_of_copy(admin, source, command)
    if name:
        admin.records.update_vdi(admin.pool.vdi_by_uuid(new).ref, name_label=name)
        admin.call_vdi("vdi_update", new)
    _say_new(admin, reply)


def _name_of_copy(admin: Admin, source: VdiRecord, command: str) -> str:
    """What a copy is called that was given no name: not like the disk, which keeps its own.

    Empty where the disk has no name, or the records are XAPI's, which names what it makes.
    """
    if not source.name_label or not isinstance(admin.pool, PoolAdmin):
        return ""
    kind = command.removeprefix("vdi_")
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    plain = f"{source.name_label} ({kind}, {made}"
    taken = {vdi.name_label for sr in admin.pool.srs() for vdi in admin.pool.vdis(sr.ref)}
    numbers = ("", *(f", {number}" for number in range(2, len(taken) + 3)))
    return next(f"{plain}{more})" for more in numbers if f"{plain}{more})" not in taken)


def _preview(admin: Admin, options: Namespace, command: str) -> None:
    """Say what a copy would cost, or refuse as the copy would be refused."""
    sr, vdi = admin.find_vdi(options.vdi)
    with commands.refusing(command):
        repository = admin.repository(sr)
        repository.require_master()
        would = copies.preview(repository, vdi.uuid, copies.Copy(command == "vdi_snapshot"))
    document = {
        "uuid": vdi.uuid,
        "bytes": would.bytes_needed,
        "depth": would.depth,
        "limit": would.limit,
    }
    text = (
        f"would take {show_size(would.bytes_needed)} now;"
        f" its chain would have {would.depth} images, the limit is {would.limit}"
    )
    admin.output.result(document, text)


def _mapping(reply: Any) -> Mapping[str, Any]:
    assert isinstance(reply, dict)  # noqa: S101 - what these commands answer
    return reply


def _say_new(admin: Admin, reply: Any) -> None:
    new = str(_mapping(reply)["uuid"])
    admin.output.result({"uuid": new}, new)


def resize(admin: Admin, options: Namespace) -> None:
    """Grow a VDI."""
    reply = admin.call_vdi("vdi_resize", options.vdi, str(parse_size(options.size)))
    uuid = str(_mapping(reply)["uuid"])
    size = admin.pool.vdi_by_uuid(uuid).virtual_size
    admin.output.result({"uuid": uuid, "virtual_size": size}, "")


def forget(admin: Admin, options: Namespace) -> None:
    """Give up a VDI whose image is away, and what it alone needs."""
    sr, vdi = admin.find_vdi(options.vdi)
    if vdi.uuid in admin.repository(sr).look("vdi forget").forest:
        raise InvalidArgument(f"the image of {vdi.uuid} is there; use sm vdi delete")
    admin.call_vdi("vdi_delete", vdi.uuid)
    admin.output.result({"uuid": vdi.uuid, "forgotten": True}, "")


def delete(admin: Admin, options: Namespace) -> None:
    """Delete a VDI; the collector gives back its space."""
    _, vdi = admin.find_vdi(options.vdi)
    admin.call_vdi("vdi_delete", vdi.uuid)
    admin.output.result({"uuid": vdi.uuid, "deleted": True}, "")


def activate(admin: Admin, options: Namespace) -> None:
    """Serve a VDI on this host, and say how to reach it."""
    writable = "false" if options.read_only else "true"
    admin.call_vdi("vdi_attach", options.vdi, writable)
    admin.call_vdi("vdi_activate", options.vdi, writable)
    sr, vdi = admin.find_vdi(options.vdi)
    repository = admin.repository(sr)
    there = ask(repository, admin.pool.this_host().ref, "look", vdi_uuid=vdi.uuid)
    if not there["served"]:
        raise VdiUnavailable(f"the process that served {vdi.uuid} has ended; activate it again")
    document = {
        "uuid": vdi.uuid,
        "mode": "RW" if writable == "true" else "RO",
        **{key: there[key] for key in ("nbd", "path", "datapath", "pid")},
    }
    words = [f"{key}: {document[key]}" for key in ("path", "nbd") if document[key]]
    words.append(f"process: {document['pid']} ({document['datapath']})")
    admin.output.result(document, "\n".join(words))


def deactivate(admin: Admin, options: Namespace) -> None:
    """Stop serving a VDI on this host."""
    admin.call_vdi("vdi_deactivate", options.vdi)
    admin.call_vdi("vdi_detach", options.vdi)
    _, vdi = admin.find_vdi(options.vdi)
    admin.output.result({"uuid": vdi.uuid, "active": False}, "")


def reset(admin: Admin, options: Namespace) -> None:
    """Take back that a host uses a VDI, when that host cannot do so itself any more.

    A host that answers is asked first, and nothing is done while it serves the VDI. One that does
    not answer may still be writing: if so, and the VDI is then activated elsewhere, its content is
    lost. Make sure that the host is off, then say so with --host-is-off.
    """
    sr, vdi = admin.find_vdi(options.vdi)
    host = admin.find_host(options.host)
    repository = Repository.open(sr.uuid, admin.settings, admin.pool, present=False)
    activation.reset(repository, vdi.uuid, host.ref, certain=options.host_is_off)
    admin.output.result({"uuid": vdi.uuid, "host": host.uuid, "active": False}, "")


def list_(admin: Admin, options: Namespace) -> None:
    """VDIs; with --all also the hidden images that they are made of."""
    chosen = [admin.find_sr(options.sr)] if options.sr else admin.pool.srs()
    rows = [
        _summary(sr, vdi)
        for sr in chosen
        for vdi in admin.pool.vdis(sr.ref)
        if vdi.managed or options.all
    ]
    shown = (
        rows
        if admin.output.as_json
        else [
            {
                **row,
                "virtual_size": show_size(row["virtual_size"]),
                "physical_utilisation": show_size(row["physical_utilisation"]),
            }
            for row in rows
        ]
    )
    waiting = {"waits_for": "WAITS FOR"} if any(row["waits_for"] for row in rows) else {}
    admin.output.table(
        shown,
        {
            "uuid": "UUID",
            "name": "NAME",
            "format": "FORMAT",
            "virtual_size": "SIZE",
            "physical_utilisation": "USED",
            "is_a_snapshot": "SNAPSHOT",
            **waiting,
            "sr": "SR",
        },
    )


def _summary(sr: SrRecord, vdi: VdiRecord) -> dict[str, Any]:
    return {
        "uuid": vdi.uuid,
        "sr": sr.uuid,
        "name": vdi.name_label,
        "format": vdi.sm_config.get(keys.IMAGE_FORMAT),
        "virtual_size": vdi.virtual_size,
        "physical_utilisation": vdi.physical_utilisation,
        "hidden": not vdi.managed,
        "is_a_snapshot": vdi.is_a_snapshot,
        "waits_for": _waits_for(vdi),
    }


def _waits_for(vdi: VdiRecord) -> str | None:
    """What the users of a disk wait for in the middle of a write; None if they do not."""
    if keys.WAITS_FOR_SPACE in vdi.sm_config:
        return "space"
    return "SR master" if keys.WAITS_FOR_MASTER in vdi.sm_config else None


def show(admin: Admin, options: Namespace) -> None:
    """All about one VDI, from its image as well as from its record."""
    sr, vdi = admin.find_vdi(options.vdi)
    found = admin.repository(sr).look("vdi show")
    node = found.forest.nodes.get(vdi.uuid)
    document: dict[str, Any] = {
        **_summary(sr, vdi),
        "path": str(found.volumes[vdi.uuid].path) if node else None,
        "parent": node.parent if node else None,
        "depth": found.forest.depth(vdi.uuid) if node else None,
        "snapshot_of": _uuid_of(admin, vdi.snapshot_of),
        "missing": vdi.missing,
        "active": _active(admin, sr, vdi),
        "problem": found.forest.defect(vdi.uuid) if node else "its image is missing",
        "sm_config": dict(vdi.sm_config),
    }
    if node and not node.problem:
        document |= {
            "format": node.format,
            "virtual_size": node.virtual_size,
            "physical_utilisation": node.used,
            "hidden": node.hidden,
        }
    said = {**document, "active": "; ".join(map(_said, document["active"])) or None}
    lines = [f"{key}: {'-' if value is None else value}" for key, value in said.items()]
    admin.output.result(document, "\n".join(lines))


def _said(active: Mapping[str, Any]) -> str:
    """One host's use of a VDI in words."""
    words = f"{active['mode']} on {active['host']}, {active['state']}"
    if "pid" in active:
        words += f" by process {active['pid']} ({active['datapath']})"
        words += f" at {active['nbd'] or active['path']}"
    return f"{words}: {active['problem']}" if "problem" in active else words


def _active(admin: Admin, sr: SrRecord, vdi: VdiRecord) -> list[dict[str, Any]]:
    """Where a VDI is active, and what its host says of it."""
    hosts = {host.ref: host.name_label for host in admin.pool.hosts()}
    found = []
    for ref, mode in keys.active_hosts(vdi.sm_config).items():
        row: dict[str, Any] = {"host": hosts.get(ref, ref), "mode": mode}
        try:
            there = ask(admin.repository(sr), ref, "look", vdi_uuid=vdi.uuid)
        except SmError as error:
            found.append({**row, "state": "unknown", "problem": error.fault_string})
            continue
        row["state"] = "served" if there["served"] else "not served"
        shown = ("datapath", "pid", "nbd", "path", "paused")
        found.append(row | {key: there[key] for key in shown if key in there})
    return found


def _uuid_of(admin: Admin, ref: str) -> str | None:
    if ref in ("", NULL_REF):
        return None
    known = {vdi.ref: vdi.uuid for sr in admin.pool.srs() for vdi in admin.pool.vdis(sr.ref)}
    return known.get(ref)


def check(admin: Admin, options: Namespace) -> int:
    """Examine all metadata of a VDI's images, down to the base."""
    sr, vdi = admin.find_vdi(options.vdi)
    repository = admin.repository(sr)
    found = repository.look("vdi check")
    if vdi.uuid not in found.forest:
        raise VdiUnavailable(f"{vdi.uuid}: its image is missing")
    images = [
        _check_image(repository.formats, found, node.uuid) for node in found.forest.chain(vdi.uuid)
    ]
    clean = not any(image["corruptions"] for image in images)
    lines = []
    for image in images:
        lines.append(
            f"{image['uuid']} ({image['format']}): {'DAMAGED' if image['corruptions'] else 'good'}"
        )
        lines += [f"    corruption: {text}" for text in image["corruptions"]]
        lines += [f"    leak: {text}" for text in image["leaks"]]
    admin.output.result({"uuid": vdi.uuid, "good": clean, "images": images}, "\n".join(lines))
    return 0 if clean else EXIT_DAMAGED


def _check_image(formats: Any, found: Scan, uuid: str) -> dict[str, Any]:
    defect = found.forest.defect(uuid)
    volume = found.volumes[uuid]
    if defect:
        return {"uuid": uuid, "format": volume.format, "corruptions": [defect], "leaks": []}
    report = formats.get(volume.format).check(volume.path)
    return {
        "uuid": uuid,
        "format": volume.format,
        "corruptions": list(report.corruptions),
        "leaks": list(report.leaks),
    }
