"""The wire forms of XenAPI's records, and ours. Nothing else knows them.

Integers travel as decimal strings, dates as `dateTime.iso8601`, the rest as XML-RPC's own types.
"""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Mapping
from typing import Any

from sm.errors import InvalidArgument
from sm.pool.base import FieldValue
from sm.pool.errors import PoolProtocolError
from sm.pool.records import (
    HostRecord,
    NewVdi,
    PbdRecord,
    SrRecord,
    TaskRecord,
    TaskStatus,
    VdiRecord,
)
from sm.pool.times import NO_TIME, canonical_time


class _Reader:
    """One record as XAPI sent it; every field is checked for its type."""

    def __init__(self, kind: str, ref: str, fields: Any) -> None:
        self._what = f"{kind} {ref}"
        if not isinstance(fields, Mapping):
            raise PoolProtocolError(f"{self._what} is no struct")
        self._fields = fields

    def text(self, name: str) -> str:
        value = self._value(name)
        if not isinstance(value, str):
            raise self._refusal(name, value)
        return value

    def flag(self, name: str) -> bool:
        value = self._value(name)
        if not isinstance(value, bool):
            raise self._refusal(name, value)
        return value

    def number(self, name: str) -> int:
        text = self.text(name)
        try:
            return int(text)
        except ValueError as error:
            raise self._refusal(name, text) from error

    def fraction(self, name: str) -> float:
        value = self._value(name)
        if not isinstance(value, float):
            raise self._refusal(name, value)
        return value

    def time(self, name: str) -> str:
        value = self._value(name)
        try:
            return canonical_time(str(value))
        except InvalidArgument as error:
            raise self._refusal(name, value) from error

    def strings(self, name: str) -> dict[str, str]:
        value = self._value(name)
        if not isinstance(value, dict):
            raise self._refusal(name, value)
        for text in value.values():
            if not isinstance(text, str):
                raise self._refusal(name, value)
        return value

    def _value(self, name: str) -> Any:
        try:
            return self._fields[name]
        except KeyError as error:
            raise PoolProtocolError(f"{self._what} has no field {name}") from error

    def _refusal(self, name: str, value: Any) -> PoolProtocolError:
        return PoolProtocolError(f"{self._what}: {name} is {value!r}")


def host_record(ref: str, fields: Any) -> HostRecord:
    """A record of class `host`."""
    read = _Reader("host", ref, fields)
    return HostRecord(
        ref,
        read.text("uuid"),
        read.text("name_label"),
        read.flag("enabled"),
        read.text("address"),
    )


def pool_master(records: Any) -> str:
    """The master named by the one record of class `pool`."""
    if not isinstance(records, Mapping) or len(records) != 1:
        raise PoolProtocolError("XAPI does not have one pool")
    ((ref, fields),) = records.items()
    return _Reader("pool", ref, fields).text("master")


def sr_record(ref: str, fields: Any) -> SrRecord:
    """A record of class `SR`."""
    read = _Reader("SR", ref, fields)
    return SrRecord(
        ref=ref,
        uuid=read.text("uuid"),
        name_label=read.text("name_label"),
        name_description=read.text("name_description"),
        type=read.text("type"),
        shared=read.flag("shared"),
        virtual_allocation=read.number("virtual_allocation"),
        physical_size=read.number("physical_size"),
        physical_utilisation=read.number("physical_utilisation"),
        sm_config=read.strings("sm_config"),
        other_config=read.strings("other_config"),
    )


def pbd_record(ref: str, fields: Any) -> PbdRecord:
    """A record of class `PBD`."""
    read = _Reader("PBD", ref, fields)
    return PbdRecord(
        ref=ref,
        uuid=read.text("uuid"),
        host=read.text("host"),
        sr=read.text("SR"),
        device_config=read.strings("device_config"),
        currently_attached=read.flag("currently_attached"),
    )


def vdi_record(ref: str, fields: Any) -> VdiRecord:
    """A record of class `VDI`."""
    read = _Reader("VDI", ref, fields)
    return VdiRecord(
        ref=ref,
        uuid=read.text("uuid"),
        sr=read.text("SR"),
        name_label=read.text("name_label"),
        name_description=read.text("name_description"),
        type=read.text("type"),
        sharable=read.flag("sharable"),
        read_only=read.flag("read_only"),
        managed=read.flag("managed"),
        location=read.text("location"),
        virtual_size=read.number("virtual_size"),
        physical_utilisation=read.number("physical_utilisation"),
        metadata_of_pool=read.text("metadata_of_pool"),
        is_a_snapshot=read.flag("is_a_snapshot"),
        snapshot_of=read.text("snapshot_of"),
        snapshot_time=read.time("snapshot_time"),
        cbt_enabled=read.flag("cbt_enabled"),
        missing=read.flag("missing"),
        on_boot=read.text("on_boot"),
        allow_caching=read.flag("allow_caching"),
        sm_config=read.strings("sm_config"),
        other_config=read.strings("other_config"),
    )


APPLIES_TO = "applies_to"
"""The key in a task's other-config that names the SR it is about."""


def task_record(ref: str, fields: Any) -> TaskRecord | None:
    """A record of class `task`; None for one that is not about an SR."""
    read = _Reader("task", ref, fields)
    sr = read.strings("other_config").get(APPLIES_TO)
    if sr is None:
        return None
    status = read.text("status")
    known = {member.value: member for member in TaskStatus}
    return TaskRecord(
        ref=ref,
        uuid=read.text("uuid"),
        name_label=read.text("name_label"),
        sr=sr,
        progress=read.fraction("progress"),
        # "cancelling" is a task that has not ended yet.
        status=known.get(status, TaskStatus.PENDING),
    )


def wire_time(text: str) -> xmlrpc.client.DateTime:
    """A canonical time, or none, for XAPI."""
    return xmlrpc.client.DateTime(text or NO_TIME)


def wire_field(name: str, value: FieldValue) -> Any:
    """The value of a VDI's field for XAPI."""
    if name == "snapshot_time":
        return wire_time(str(value))
    return wire_number(value) if type(value) is int else value


def wire_number(value: int) -> str:
    """An integer for XAPI."""
    return str(value)


def introduce_parameters(new: NewVdi) -> tuple[Any, ...]:
    """The parameters of `VDI.db_introduce`, in its order."""
    return (
        new.uuid,
        new.name_label,
        new.name_description,
        new.sr,
        new.type,
        new.sharable,
        new.read_only,
        dict(new.other_config),
        new.location or new.uuid,
        dict(new.xenstore_data),
        dict(new.sm_config),
        new.managed,
        wire_number(new.virtual_size),
        wire_number(new.physical_utilisation),
        new.metadata_of_pool,
        new.is_a_snapshot,
        wire_time(canonical_time(new.snapshot_time)),
        new.snapshot_of,
        new.cbt_enabled,
    )
