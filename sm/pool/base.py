"""The pool database as drivers, VDI code, activation and the collector see it.

Two implementations: `sm.pool.embedded`, a database of ours, and `sm.pool.xapi`, a real XAPI. All
that is kept about disks is derived from the images and can be rebuilt by a scan; marks in sm-config
(host keys, claims) are the exception, and for them `add_to_...` is the one atomic test-and-set.

Every method raises `RecordMissing` for a record that is not there, and otherwise `PoolError`. Each
write is durable when the method returns, and takes effect as a whole or not at all unless its
docstring says otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from sm.errors import SmError
from sm.pool.records import (
    NULL_REF,
    VDI_FIELDS,
    ConfigMap,
    HostRecord,
    NewVdi,
    PbdRecord,
    SrRecord,
    TaskRecord,
    TaskStatus,
    VdiRecord,
)
from sm.pool.times import canonical_time

__all__ = [
    "NULL_REF",
    "FieldValue",
    "HostRecord",
    "NewVdi",
    "PbdRecord",
    "Pool",
    "PoolAdmin",
    "SrRecord",
    "TaskRecord",
    "TaskStatus",
    "VdiRecord",
]

FieldValue = int | bool | str


class Pool(ABC):
    """Records of the pool. A read never changes one."""

    # Life

    @abstractmethod
    def close(self) -> None:
        """Release what this process holds; used again, the pool opens anew."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Hosts

    @abstractmethod
    def this_host(self) -> HostRecord:
        """The host that this process runs on."""

    @abstractmethod
    def hosts(self) -> list[HostRecord]:
        """All hosts of the pool."""

    @abstractmethod
    def call_host(self, ref: str, function: str, arguments: Mapping[str, str]) -> str:
        """Have another host do something; see `sm.hosts`. Returns its answer, JSON.

        It is asked once. Raises `HostUnreachable` when it does not answer: it may have done it or
        not.
        """

    # SRs

    @abstractmethod
    def sr(self, ref: str) -> SrRecord:
        """One SR."""

    @abstractmethod
    def sr_by_uuid(self, uuid: str) -> SrRecord:
        """One SR."""

    @abstractmethod
    def srs(self) -> list[SrRecord]:
        """All SRs."""

    @abstractmethod
    def sr_master(self, sr: SrRecord) -> str:
        """The host that may change the chains of an SR: of a shared one, a single host may.

        Of another SR, this host. Empty where no host may.
        """

    def is_sr_master(self, sr: SrRecord) -> bool:
        """Whether this host may change the chains of an SR."""
        return not sr.shared or self.sr_master(sr) == self.this_host().ref

    def secret(self, uuid: str) -> str:
        """A password that the pool keeps; raises `InvalidSecret` when it has none of that UUID."""
        raise SmError(
            f"this pool keeps no secrets, and so none called {uuid}", name="InvalidSecret"
        )

    @abstractmethod
    def pbds(self, sr_ref: str) -> list[PbdRecord]:
        """How each host reaches an SR; empty when there is no such SR."""

    @abstractmethod
    def set_sr_sizes(
        self, ref: str, *, virtual_allocation: int, physical_size: int, physical_utilisation: int
    ) -> None:
        """Set the sizes of an SR, in bytes. Stopped in the middle, some may be set."""

    def add_to_sr_sm_config(self, ref: str, key: str, value: str) -> None:
        """Add a key; raises `DuplicateKey` when it is there, whatever its value."""
        self._add(ConfigMap.SR_SM_CONFIG, ref, key, value)

    def remove_from_sr_sm_config(self, ref: str, key: str) -> None:
        """Remove a key; it need not be there."""
        self._remove(ConfigMap.SR_SM_CONFIG, ref, key)

    def add_to_sr_other_config(self, ref: str, key: str, value: str) -> None:
        """Add a key; raises `DuplicateKey` when it is there, whatever its value."""
        self._add(ConfigMap.SR_OTHER_CONFIG, ref, key, value)

    def remove_from_sr_other_config(self, ref: str, key: str) -> None:
        """Remove a key; it need not be there."""
        self._remove(ConfigMap.SR_OTHER_CONFIG, ref, key)

    # VDIs

    @abstractmethod
    def vdi(self, ref: str) -> VdiRecord:
        """One VDI."""

    @abstractmethod
    def vdi_by_uuid(self, uuid: str) -> VdiRecord:
        """One VDI."""

    @abstractmethod
    def vdis(self, sr_ref: str) -> list[VdiRecord]:
        """All VDIs of an SR, read in one go; empty when there is no such SR."""

    @abstractmethod
    def introduce_vdi(self, new: NewVdi) -> str:
        """Add the record of a VDI; returns its reference. A known UUID raises `RecordExists`."""

    @abstractmethod
    def forget_vdi(self, ref: str) -> None:
        """Remove the record of a VDI. Its image is not touched."""

    def update_vdi(self, ref: str, **changes: FieldValue) -> None:
        """Set fields of a VDI, those in `VDI_FIELDS`; writes only what differs.

        Stopped in the middle, some of the fields may be set. Maps are changed key by key, never
        as a whole: that would take away a key which another process has just added.
        """
        for name, value in changes.items():
            wanted = VDI_FIELDS.get(name)
            if wanted is None:
                raise TypeError(f"the field {name} of a VDI cannot be set")
            if type(value) is not wanted:
                raise TypeError(f"{name} of a VDI is {wanted.__name__}, not {value!r}")
        if "snapshot_time" in changes:
            changes["snapshot_time"] = canonical_time(str(changes["snapshot_time"]))
        record = self.vdi(ref)
        differing = {name: v for name, v in changes.items() if getattr(record, name) != v}
        if differing:
            self._set_vdi_fields(ref, differing)

    def add_to_vdi_sm_config(self, ref: str, key: str, value: str) -> None:
        """Add a key; raises `DuplicateKey` when it is there, whatever its value."""
        self._add(ConfigMap.VDI_SM_CONFIG, ref, key, value)

    def remove_from_vdi_sm_config(self, ref: str, key: str) -> None:
        """Remove a key; it need not be there."""
        self._remove(ConfigMap.VDI_SM_CONFIG, ref, key)

    def add_to_vdi_other_config(self, ref: str, key: str, value: str) -> None:
        """Add a key; raises `DuplicateKey` when it is there, whatever its value."""
        self._add(ConfigMap.VDI_OTHER_CONFIG, ref, key, value)

    def remove_from_vdi_other_config(self, ref: str, key: str) -> None:
        """Remove a key; it need not be there."""
        self._remove(ConfigMap.VDI_OTHER_CONFIG, ref, key)

    # Tasks

    @abstractmethod
    def create_task(self, name: str, sr_ref: str) -> str:
        """Add a task about an SR, for clients to follow; returns its reference.

        It stays until destroyed, also when whoever made it has ended.
        """

    @abstractmethod
    def tasks(self, sr_ref: str) -> list[TaskRecord]:
        """The tasks about an SR that were made by `create_task`."""

    @abstractmethod
    def set_task_progress(self, ref: str, progress: float) -> None:
        """Say how far a task is, from 0 to 1."""

    @abstractmethod
    def finish_task(self, ref: str, status: TaskStatus) -> None:
        """Say how a task ended."""

    @abstractmethod
    def destroy_task(self, ref: str) -> None:
        """Remove the record of a task; it need not be there."""

    # Primitives behind the methods above

    @abstractmethod
    def _add(self, config_map: ConfigMap, ref: str, key: str, value: str) -> None:
        """Add a key in one atomic step; `DuplicateKey` when it is there."""

    @abstractmethod
    def _remove(self, config_map: ConfigMap, ref: str, key: str) -> None:
        """Remove a key if it is there."""

    @abstractmethod
    def _set_vdi_fields(self, ref: str, changes: Mapping[str, FieldValue]) -> None:
        """Set fields, checked and known to differ."""


class PoolAdmin(Pool):
    """What an administrator does to a pool database that is ours to keep.

    With XAPI these are XAPI's own commands.
    """

    @abstractmethod
    def add_host(self, uuid: str, name_label: str) -> str:
        """Add a host; returns its reference. Raises `RecordExists`."""

    @abstractmethod
    def set_host_address(self, ref: str, address: str) -> None:
        """Say where a host answers, see `sm.remote.address`; empty for nowhere."""

    @abstractmethod
    def remove_host(self, ref: str) -> None:
        """Remove a host and its PBDs; raises `SrInUse` while it has, or is master of, an SR."""

    @abstractmethod
    def introduce_sr(
        self,
        *,
        uuid: str,
        sr_type: str,
        name_label: str = "",
        name_description: str = "",
        shared: bool = False,
        sm_config: Mapping[str, str] | None = None,
    ) -> str:
        """Add the record of an SR; returns its reference. Raises `RecordExists`.

        This host becomes the master of a shared one.
        """

    @abstractmethod
    def rename_sr(self, ref: str, *, name_label: str, name_description: str) -> None:
        """Change the name of an SR."""

    @abstractmethod
    def forget_sr(self, ref: str) -> None:
        """Remove the records of an SR, its PBDs, VDIs and tasks. The storage is not touched.

        That it is detached everywhere is for the caller to see to.
        """

    @abstractmethod
    def create_pbd(self, sr_ref: str, host_ref: str, device_config: Mapping[str, str]) -> str:
        """Say how a host reaches an SR; returns the reference. Raises `RecordExists`."""

    @abstractmethod
    def set_pbd_attached(self, ref: str, attached: bool) -> None:
        """Say whether the host has the SR attached."""

    @abstractmethod
    def delete_pbd(self, ref: str) -> None:
        """Remove a PBD; raises `SrInUse` while it is attached."""
