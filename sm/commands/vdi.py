"""The commands on a VDI."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from sm import activation, catalogue, snapshot, vdi, without_pool
from sm.commands.call import Call, Handler
from sm.disk_identity import attach_reply
from sm.errors import Unimplemented
from sm.kick import kick, kick_anywhere
from sm.smapi import xmlrpc
from sm.smapi.request import require_xml_text
from sm.smapi.xmlrpc import Value
from sm.snapshot import Copy
from sm.sr import reach
from sm.uuids import require_uuid

logger = logging.getLogger(__name__)


def _vdi_create(call: Call) -> Value:
    call.require_master()
    request = call.request
    name, description = request.optional(1), request.optional(2)
    require_xml_text(name, description)
    wanted = vdi.Wanted(
        size=request.size(0),
        name_label=name,
        name_description=description,
        type=request.vdi_type,
        uuid=request.vdi_uuid or None,
        sm_config=request.vdi_sm_config,
        metadata_of_pool=request.optional(3),
        is_a_snapshot=request.flag(4, "is_a_snapshot", default=False),
        snapshot_time=request.optional(5),
        snapshot_of=request.optional(6),
        read_only=request.flag(7, "read_only", default=False),
    )
    named = request.device_config.get("preferred-image-formats", "")
    preferred = [part.strip() for part in named.split(",") if part.strip()]
    with call.locked() as repository:
        created = vdi.create(repository, wanted, preferred or call.settings.preferred_formats)
        catalogue.remember(repository)
    return _vdi_info(created)


def _vdi_delete(call: Call) -> Value:
    call.require_master()
    with call.changing() as repository:
        vdi.delete(repository, call.vdi_uuid)
        catalogue.remember(repository)
    kick(call.settings.run, call.request.sr_uuid)
    return None


def _vdi_snapshot(call: Call) -> Value:
    return _copy(call, is_a_snapshot=True)


def _vdi_clone(call: Call) -> Value:
    return _copy(call, is_a_snapshot=False)


def _copy(call: Call, *, is_a_snapshot: bool) -> Value:
    call.require_master()
    if call.request.driver_params.get("mirror"):
        raise Unimplemented("a snapshot with a mirror is not supported")
    now = datetime.now(UTC).strftime("%Y%m%dT%H:%M:%SZ")
    copy = Copy(is_a_snapshot, now)
    deadline = time.monotonic() + activation.CLAIM_WAIT_SECONDS
    while True:
        snapshot.make_way(call.repository(), call.vdi_uuid)
        try:
            with call.changing() as repository:
                return _vdi_info(snapshot.copy_vdi(repository, call.vdi_uuid, copy))
        except snapshot.Claimed:
            # What gave way is planned anew at once, and may come before us.
            if time.monotonic() > deadline:
                raise


def _vdi_resize(call: Call) -> Value:
    call.require_master()
    with call.changing() as repository:
        vdi.resize(repository, call.vdi_uuid, call.request.size(0))
    return _vdi_info(call.vdi_uuid)


def _vdi_update(call: Call) -> Value:
    with call.locked() as repository:
        record = repository.vdi(call.vdi_uuid)
        require_xml_text(record.name_label, record.name_description)
        vdi.refresh(repository, call.vdi_uuid)
        catalogue.remember(repository)
    return None


def _vdi_introduce(call: Call) -> Value:
    request = call.request
    location = request.vdi_location or request.new_uuid or ""
    require_uuid(location)
    with call.locked() as repository:
        vdi.introduce(repository, location, request.new_uuid or "", request.vdi_sm_config)
        catalogue.remember(repository)
    return _vdi_info(location)


def _vdi_compose(call: Call) -> Value:
    call.require_master()
    with call.changing() as repository:
        vdi.compose(repository, call.request.argument(0, "vdi1"), call.vdi_uuid)
        catalogue.remember(repository)
    return None


def _vdi_attach(call: Call) -> Value:
    repository = call.repository()
    forest = repository.look("vdi_attach").forest
    activation.check_usable(forest, call.vdi_uuid)
    node = forest[call.vdi_uuid]
    return attach_reply(repository, node, call.driver.info.sr_type)


def _vdi_detach(call: Call) -> Value:
    # Attach only tells where the disk will be found; a VDI that is gone is detached.
    logger.debug("detached %s", call.vdi_uuid)
    return None


def _vdi_activate(call: Call) -> Value:
    writable = call.request.flag(0, "writable", default=True)
    activation.activate(call.repository(), call.vdi_uuid, writable=writable)
    # A merge that gave way can now go on through the datapath.
    kick_anywhere(call.settings.run, call.request.sr_uuid)
    return None


def _vdi_deactivate(call: Call) -> Value:
    repository = call.repository_anyhow()
    with repository.locks.hold("vdi", call.vdi_uuid, "vdi_deactivate"):
        activation.deactivate(repository, call.vdi_uuid)
    kick_anywhere(call.settings.run, call.request.sr_uuid)
    return None


def _vdi_generate_config(call: Call) -> Value:
    repository = call.repository()
    activation.check_usable(repository.look("vdi_generate_config").forest, call.vdi_uuid)
    members = {
        "command": "vdi_attach_from_config",
        "args": ["true"],
        "device_config": dict(call.device_config),
        "sr_uuid": call.request.sr_uuid,
        "vdi_uuid": call.vdi_uuid,
    }
    return xmlrpc.call("vdi_attach_from_config", [members])


def _vdi_attach_from_config(call: Call) -> Value:
    """Serve a disk without a pool database: the SR from its device_config, no host key."""
    request = call.request
    reach(call.driver, request.sr_uuid, request.device_config)
    repository = call.repository()
    with repository.locks.hold("vdi", call.vdi_uuid, request.command):
        without_pool.serve(repository, call.vdi_uuid)
    return _vdi_attach(call)


def _vdi_detach_from_config(call: Call) -> Value:
    repository = call.repository_anyhow()
    with repository.locks.hold("vdi", call.vdi_uuid, call.request.command):
        without_pool.stop(repository, call.vdi_uuid)
    return None


def _vdi_epoch_begin(call: Call) -> Value:
    if call.request.vdi_on_boot == "reset":
        raise Unimplemented("on_boot=reset is not supported")
    return None


def _vdi_epoch_end(call: Call) -> Value:
    logger.debug("end of epoch of %s", call.vdi_uuid)
    return None


def _vdi_info(uuid: str) -> Value:
    return {"location": uuid, "uuid": uuid}


HANDLERS: Mapping[str, Handler] = {
    "vdi_create": _vdi_create,
    "vdi_delete": _vdi_delete,
    "vdi_snapshot": _vdi_snapshot,
    "vdi_clone": _vdi_clone,
    "vdi_resize": _vdi_resize,
    "vdi_update": _vdi_update,
    "vdi_introduce": _vdi_introduce,
    "vdi_compose": _vdi_compose,
    "vdi_attach": _vdi_attach,
    "vdi_detach": _vdi_detach,
    "vdi_activate": _vdi_activate,
    "vdi_deactivate": _vdi_deactivate,
    "vdi_generate_config": _vdi_generate_config,
    "vdi_attach_from_config": _vdi_attach_from_config,
    "vdi_detach_from_config": _vdi_detach_from_config,
    "vdi_resize_online": _vdi_resize,
    "vdi_epoch_begin": _vdi_epoch_begin,
    "vdi_epoch_end": _vdi_epoch_end,
}
