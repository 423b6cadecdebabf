"""Records of the pool, and what every pool database can do.

A reference is an opaque string. The one atomic primitive is XAPI's: adding a key that exists fails,
so of several that add it exactly one wins. Everything about images here is a copy of what the
images say, and may be rebuilt from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

NULL_REF = "OpaqueRef:NULL"

FieldValue = str | int | bool


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host of the pool."""

    ref: str
    uuid: str
    name_label: str


@dataclass(frozen=True, slots=True)
class SrRecord:
    """A storage repository. Sizes in bytes."""

    ref: str
    uuid: str
    type: str
    name_label: str = ""
    name_description: str = ""
    shared: bool = False
    virtual_allocation: int = 0
    physical_size: int = 0
    physical_utilisation: int = 0
    sm_config: Mapping[str, str] = field(default_factory=dict)
    other_config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PbdRecord:
    """How one host reaches one SR."""

    ref: str
    uuid: str
    host: str
    sr: str
    device_config: Mapping[str, str] = field(default_factory=dict)
    currently_attached: bool = False


@dataclass(frozen=True, slots=True)
class NewVdi:
    """A VDI record to introduce; its location is its UUID. Sizes in bytes."""

    uuid: str
    sr: str
    name_label: str = ""
    name_description: str = ""
    type: str = "user"
    read_only: bool = False
    managed: bool = True
    virtual_size: int = 0
    physical_utilisation: int = 0
    sm_config: Mapping[str, str] = field(default_factory=dict)
    is_a_snapshot: bool = False
    snapshot_of: str = NULL_REF
    snapshot_time: str = ""
    metadata_of_pool: str = NULL_REF


@dataclass(frozen=True, slots=True)
class VdiRecord:
    """A VDI. Sizes in bytes; `snapshot_time` as XAPI writes it, `YYYYMMDDTHH:MM:SSZ` or empty."""

    ref: str
    uuid: str
    sr: str
    location: str
    name_label: str = ""
    name_description: str = ""
    type: str = "user"
    read_only: bool = False
    managed: bool = True
    virtual_size: int = 0
    physical_utilisation: int = 0
    is_a_snapshot: bool = False
    snapshot_of: str = NULL_REF
    snapshot_time: str = ""
    metadata_of_pool: str = NULL_REF
    on_boot: str = "persist"
    allow_caching: bool = False
    cbt_enabled: bool = False
    sm_config: Mapping[str, str] = field(default_factory=dict)
    other_config: Mapping[str, str] = field(default_factory=dict)


class Pool(ABC):
    """What drivers, VDI operations, activation and the collector need of the pool.

    Raises `RecordMissing` for an unknown reference or UUID, `DuplicateKey` when a key to add is
    there, and `PoolError` when the database cannot be used.
    """

    @abstractmethod
    def this_host(self) -> HostRecord:
        """The host that this process runs on."""

    @abstractmethod
    def hosts(self) -> list[HostRecord]:
        """All hosts."""

    @abstractmethod
    def srs(self) -> list[SrRecord]:
        """All SRs."""

    @abstractmethod
    def sr(self, ref: str) -> SrRecord:
        """One SR."""

    @abstractmethod
    def sr_by_uuid(self, uuid: str) -> SrRecord:
        """One SR by UUID."""

    @abstractmethod
    def pbds(self, sr: str) -> list[PbdRecord]:
        """How hosts reach an SR."""

    @abstractmethod
    def set_sr_sizes(
        self, ref: str, *, virtual_allocation: int, physical_size: int, physical_utilisation: int
    ) -> None:
        """Set the sizes of an SR, in bytes."""

    @abstractmethod
    def add_to_sr_sm_config(self, ref: str, key: str, value: str) -> None:
        """Add a key; raises `DuplicateKey` when it is there."""

    @abstractmethod
    def remove_from_sr_sm_config(self, ref: str, key: str) -> None:
        """Remove a key; it may be gone already."""

    @abstractmethod
    def add_to_sr_other_config(self, ref: str, key: str, value: str) -> None:
        """Add a key; raises `DuplicateKey` when it is there."""

    @abstractmethod
    def remove_from_sr_other_config(self, ref: str, key: str) -> None:
        """Remove a key; it may be gone already."""

    @abstractmethod
    def vdis(self, sr: str) -> list[VdiRecord]:
        """All VDIs of an SR, in one call."""

    @abstractmethod
    def vdi(self, ref: str) -> VdiRecord:
        """One VDI."""

    @abstractmethod
    def vdi_by_uuid(self, uuid: str) -> VdiRecord:
        """One VDI by UUID."""

    @abstractmethod
    def introduce_vdi(self, vdi: NewVdi) -> str:
        """Add a VDI record; returns its reference."""

    @abstractmethod
    def forget_vdi(self, ref: str) -> None:
        """Remove a VDI record; it may be gone already."""

    @abstractmethod
    def update_vdi(self, ref: str, **fields: FieldValue) -> None:
        """Set fields of a VDI: any of `VdiRecord` but identity and the two maps."""

    @abstractmethod
    def add_to_vdi_sm_config(self, ref: str, key: str, value: str) -> None:
        """Add a key; raises `DuplicateKey` when it is there."""

    @abstractmethod
    def remove_from_vdi_sm_config(self, ref: str, key: str) -> None:
        """Remove a key; it may be gone already."""

    @abstractmethod
    def add_to_vdi_other_config(self, ref: str, key: str, value: str) -> None:
        """Add a key; raises `DuplicateKey` when it is there."""

    @abstractmethod
    def remove_from_vdi_other_config(self, ref: str, key: str) -> None:
        """Remove a key; it may be gone already."""

    @abstractmethod
    def create_task(self, name: str, description: str) -> str:
        """Add a task that clients can watch; returns its reference."""

    @abstractmethod
    def set_task_progress(self, ref: str, progress: float) -> None:
        """Say how far a task is, from 0 to 1."""

    @abstractmethod
    def finish_task(self, ref: str, *, error: str = "") -> None:
        """End a task, well when `error` is empty."""


class PoolAdmin(Pool):
    """A pool database that is ours to keep: what XAPI otherwise does by itself."""

    @abstractmethod
    def introduce_sr(
        self, *, uuid: str, sr_type: str, name_label: str = "", name_description: str = ""
    ) -> str:
        """Add an SR record; returns its reference."""

    @abstractmethod
    def forget_sr(self, ref: str) -> None:
        """Remove an SR record with its PBDs and VDIs."""

    @abstractmethod
    def create_pbd(self, sr: str, host: str, device_config: Mapping[str, str]) -> str:
        """Say how a host reaches an SR; returns the reference."""

    @abstractmethod
    def set_pbd_attached(self, ref: str, attached: bool) -> None:
        """Say whether the SR is attached on that host."""
