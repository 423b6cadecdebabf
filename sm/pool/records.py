"""The records of a pool database as plain values. Sizes are in bytes.

A reference names a record inside one pool database; it is an opaque string. Maps are never None.
Names follow the XenAPI classes of the same records, in snake_case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

NULL_REF: Final = "OpaqueRef:NULL"
"""The reference to nothing."""


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host of the pool.

    `address` is where its `sm-hostd` answers, see `sm.remote.address`, or empty; with XAPI it is
    the host's network address, and XAPI does the calling.
    """

    ref: str
    uuid: str
    name_label: str
    enabled: bool = True
    address: str = ""


@dataclass(frozen=True, slots=True)
class SrRecord:
    """A storage repository. `virtual_allocation` is what its visible disks promise together.

    `master` is the host that may change the chains of a shared SR, where that is kept with the SR;
    ask `Pool.is_sr_master`.
    """

    ref: str
    uuid: str
    name_label: str
    name_description: str
    type: str
    shared: bool
    virtual_allocation: int
    physical_size: int
    physical_utilisation: int
    sm_config: Mapping[str, str]
    other_config: Mapping[str, str]
    master: str = ""


@dataclass(frozen=True, slots=True)
class PbdRecord:
    """How one host reaches one SR, and whether it does at present."""

    ref: str
    uuid: str
    host: str
    sr: str
    device_config: Mapping[str, str]
    currently_attached: bool


@dataclass(frozen=True, slots=True)
class NewVdi:
    """A VDI to be introduced. An empty `location` stands for the UUID.

    `snapshot_time` is ISO 8601 in UTC, in the basic or the extended form; empty for no snapshot.
    """

    uuid: str
    sr: str
    virtual_size: int
    name_label: str = ""
    name_description: str = ""
    type: str = "user"
    sharable: bool = False
    read_only: bool = False
    managed: bool = True
    location: str = ""
    physical_utilisation: int = 0
    metadata_of_pool: str = NULL_REF
    is_a_snapshot: bool = False
    snapshot_of: str = NULL_REF
    snapshot_time: str = ""
    cbt_enabled: bool = False
    sm_config: Mapping[str, str] = field(default_factory=dict)
    other_config: Mapping[str, str] = field(default_factory=dict)
    xenstore_data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VdiRecord:
    """A disk as users see it, or an inner image of its chain (`managed` false).

    `snapshot_of` may name a VDI that is gone. `snapshot_time` is as `20240131T12:00:00Z`, empty
    when there is none. `missing` says that the image was not found by the last scan.
    """

    ref: str
    uuid: str
    sr: str
    name_label: str
    name_description: str
    type: str
    sharable: bool
    read_only: bool
    managed: bool
    location: str
    virtual_size: int
    physical_utilisation: int
    metadata_of_pool: str
    is_a_snapshot: bool
    snapshot_of: str
    snapshot_time: str
    cbt_enabled: bool
    missing: bool
    on_boot: str
    allow_caching: bool
    sm_config: Mapping[str, str]
    other_config: Mapping[str, str]


class TaskStatus(Enum):
    """How far a task is; the values are those of XenAPI."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """Long work on an SR that clients can follow. `progress` runs from 0 to 1."""

    ref: str
    uuid: str
    name_label: str
    sr: str
    progress: float
    status: TaskStatus


VDI_FIELDS: Mapping[str, type] = {
    "name_label": str,
    "name_description": str,
    "virtual_size": int,
    "physical_utilisation": int,
    "managed": bool,
    "read_only": bool,
    "is_a_snapshot": bool,
    "snapshot_of": str,
    "snapshot_time": str,
    "metadata_of_pool": str,
    "cbt_enabled": bool,
    "missing": bool,
}
"""What can be set of a VDI once it is introduced, and its type."""


class ConfigMap(Enum):
    """A map of a record whose keys are added and removed one by one."""

    SR_SM_CONFIG = ("SR", "sm_config")
    SR_OTHER_CONFIG = ("SR", "other_config")
    VDI_SM_CONFIG = ("VDI", "sm_config")
    VDI_OTHER_CONFIG = ("VDI", "other_config")
