"""The commands on an SR."""

from __future__ import annotations

from collections.abc import Mapping

from sm import catalogue, process, sr
from sm.commands.call import Call, Handler
from sm.cowutil.base import CowUtil
from sm.cowutil.registry import Formats
from sm.kick import attachments_changed, kick
from sm.smapi.xmlrpc import Value
from sm.uuids import require_uuid


def _sr_probe(call: Call) -> Value:
    device_config = call.with_layout(call.request.sr_sm_config)
    return call.driver.probe_document(call.driver.probe(device_config), device_config)


def _sr_create(call: Call) -> Value:
    require_uuid(call.request.sr_uuid)
    size = call.request.size(0)
    sr.create(call.driver, call.request.sr_uuid, call.device_config, size)
    return None


def _sr_delete(call: Call) -> Value:
    call.require_master()
    sr.delete(call.driver, call.pool, call.request.sr_uuid, call.device_config)
    attachments_changed(call.settings.run)
    return None


def _sr_attach(call: Call) -> Value:
    require_uuid(call.request.sr_uuid)
    request = call.request
    sr.attach(call.driver, call.pool, request.sr_uuid, call.device_config, master=request.is_master)
    kick(call.settings.run, request.sr_uuid)
    attachments_changed(call.settings.run)
    return None


def _sr_detach(call: Call) -> Value:
    sr.detach(call.driver, call.pool, call.request.sr_uuid)
    kick(call.settings.run, call.request.sr_uuid)  # so that its collector ends
    attachments_changed(call.settings.run)
    return None


def _sr_scan(call: Call) -> Value:
    call.require_master()
    with call.locked() as repository:
        repository.store.remove_unfinished()
        sr.scan_sr(repository)
    kick(call.settings.run, call.request.sr_uuid)
    return None


def _sr_trim(call: Call) -> Value:
    call.require_master()
    with call.locked() as repository:
        repository.store.remove_unfinished()
        return str(repository.store.discard_free())


def _sr_update(call: Call) -> Value:
    repository = call.repository()
    with repository.locked("sr_update"):
        sr.update_sizes(repository, repository.scan())
        catalogue.remember(repository)
    return None


def _sr_content_type(call: Call) -> Value:
    formats = Formats(process.run)
    names = call.driver.info.image_formats
    return ",".join(name for name in names if isinstance(formats.get(name), CowUtil))


HANDLERS: Mapping[str, Handler] = {
    "sr_probe": _sr_probe,
    "sr_create": _sr_create,
    "sr_delete": _sr_delete,
    "sr_attach": _sr_attach,
    "sr_detach": _sr_detach,
    "sr_scan": _sr_scan,
    "sr_trim": _sr_trim,
    "sr_update": _sr_update,
    "sr_content_type": _sr_content_type,
}
