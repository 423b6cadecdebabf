"""The LVM over iSCSI SR: the volume group is on a logical unit of an iSCSI target.

What device_config lacks is answered with what there is to choose from: targets, then units. A
session stays as long as an SR that is attached here needs it; a note for each such SR says so.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from sm import durable, plugin
from sm.attachment import Attachment
from sm.block import devices, given, initiator, iscsi, reach, scsi
from sm.block.iscsi import Session, Target
from sm.cowutil.registry import FORMATS
from sm.drivers import lvm
from sm.drivers.lvm import LvmSr
from sm.errors import ChoiceNeeded, SmError
from sm.locks import Locks
from sm.owner import boot_id
from sm.smapi import probe
from sm.smapi.driver_info import DriverInfo
from sm.sr import FoundSr

log = logging.getLogger(__name__)

APPEAR_SECONDS = 15.0
"""For the units of a new session; the kernel looks for them by itself."""

POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Wanted:
    """What device_config names; `address` is the one that answered, `iqn` may be `*`."""

    address: str
    port: int
    iqn: str
    scsi_id: str
    every_portal: bool
    chap: iscsi.Chap

    @property
    def portal(self) -> str:
        """Address and port as tools write them."""
        return f"{given.in_url(self.address)}:{self.port}"


class LvmOverIscsiSr(LvmSr):
    """Images in a volume group on the unit `device_config:SCSIid` of a target."""

    info = DriverInfo(
        sr_type="lvmoiscsi",
        name="LVM over iSCSI SR",
        description="Keeps virtual disks as logical volumes on a unit of an iSCSI target",
        features=lvm.FEATURES,
        configuration=(
            ("target", "host name or address of the portal"),
            ("targetIQN", "name of the target, or * for all that the portal offers"),
            ("SCSIid", "SCSI id of the unit"),
            ("port", f"TCP port of the portal, {iscsi.PORT} if not given"),
            ("chapuser", "user name that the target wants"),
            ("chappassword", "password for it"),
            ("incoming_chapuser", "user name by which the target proves itself"),
            ("incoming_chappassword", "password for it"),
            ("chappassword_secret", "UUID of a secret of XAPI's, in place of chappassword"),
            ("incoming_chappassword_secret", "the same for incoming_chappassword"),
            ("multihomed", "true: use all portals of the target"),
            *(row for row in LvmSr.info.configuration if row[0] != "device"),
        ),
        image_formats=tuple(FORMATS),
    )

    secret_keys = ("chappassword", "incoming_chappassword")

    def devices(self, device_config: Mapping[str, str]) -> list[Path]:
        """Log in, and find the unit; raises `ChoiceNeeded` with the targets or the units."""
        wanted = _wanted(device_config)
        for target in self._targets(wanted):
            if not _among(target, iscsi.sessions(devices.SYSFS)):
                initiator.login(target, wanted.chap)
        return [self._unit(wanted)]

    def probe(self, device_config: Mapping[str, str]) -> list[FoundSr]:
        """The SRs on the unit."""
        with self._sessions("sr_probe"):
            found = super().probe(device_config)
        more = {
            "Target": device_config["target"],
            "TargetIQN": device_config["targetIQN"],
            "SCSIid": device_config["SCSIid"],
        }
        return [replace(each, more=more) for each in found]

    def create(self, sr_uuid: str, device_config: Mapping[str, str], size: int) -> None:
        """Make the volume group on the unit."""
        with self._sessions("sr_create"):
            super().create(sr_uuid, device_config, size)

    def attach(self, sr_uuid: str, device_config: Mapping[str, str]) -> Attachment:
        """Log in, and see that the unit holds the volume group of this SR."""
        with self._sessions("sr_attach"):
            attachment = super().attach(sr_uuid, device_config)
            self._note_use(sr_uuid, device_config["SCSIid"])
            return attachment

    def release(self, attachment: Attachment) -> None:
        """Log out of what no other SR needs."""
        with self._locks.hold("iscsi", "sessions", "sr_detach"):
            mine = self._users().get(attachment.sr_uuid, [])
            (self._notes / attachment.sr_uuid).unlink(missing_ok=True)
            self._end([each for each in iscsi.sessions(devices.SYSFS) if each.name in mine])

    def _targets(self, wanted: Wanted) -> list[Target]:
        """The targets to log in to; what the portal offers is asked of it unless there is no need.

        Raises `ChoiceNeeded` with the targets that there are.
        """
        there = [
            Target(each.address, each.port, each.iqn)
            for each in iscsi.sessions(devices.SYSFS)
            if (each.address, each.iqn) == (wanted.address, wanted.iqn)
        ]
        if there and not wanted.every_portal:
            return there
        offered = initiator.discover(wanted.portal, wanted.chap)
        named = [each for each in offered if wanted.iqn in (each.iqn, iscsi.ANY)]
        if not named:
            document = probe.targets(
                iscsi.target_members(index, target) for index, target in enumerate(offered)
            )
            names = ", ".join(sorted({each.iqn for each in offered})) or "nothing to this host"
            detail = f"{wanted.portal} offers {names}"
            raise ChoiceNeeded(detail, document, name="ConfigTargetIQNMissing")
        if wanted.every_portal:
            return named
        return [each for each in named if each.address == wanted.address] or named[:1]

    def _unit(self, wanted: Wanted) -> Path:
        """The unit, once it has appeared; raises `ChoiceNeeded` with those that there are."""
        reached = _reached(wanted)
        if scsi.device_of(wanted.scsi_id, reached, devices.SYSFS) is None:
            # In a session that was there before, for a unit that the target shows since then.
            scsi.rescan(devices.SYSFS, {each.host for each in _matching(wanted)})
        deadline = time.monotonic() + APPEAR_SECONDS
        while True:
            reached = _reached(wanted)
            found = scsi.device_of(wanted.scsi_id, reached, devices.SYSFS)
            if found is not None and found.exists():
                return found
            # Whoever wants to choose gets what there is; a unit that is named is waited for.
            if time.monotonic() > deadline or (reached and not wanted.scsi_id):
                break
            time.sleep(POLL_SECONDS)
        document = probe.units(map(scsi.members, reached))
        names = ", ".join(dict.fromkeys(unit.scsi_id for unit in reached)) or "no unit"
        raise ChoiceNeeded(f"the target has {names}", document, name="ConfigSCSIid")

    @contextmanager
    def _sessions(self, operation: str) -> Iterator[None]:
        """Sessions that are begun in the block end after it, but for those that an SR needs now."""
        with self._locks.hold("iscsi", "sessions", operation):
            before = {each.name for each in iscsi.sessions(devices.SYSFS)}
            try:
                yield
            except BaseException:
                try:
                    self._end_new(before)
                except SmError as left:
                    log.warning("a session stays: %s", left)
                raise
            self._end_new(before)

    def _end_new(self, before: set[str]) -> None:
        self._end([each for each in iscsi.sessions(devices.SYSFS) if each.name not in before])

    def _end(self, sessions: list[Session]) -> None:
        """Log out of sessions that nobody needs."""
        needed = {name for names in self._users().values() for name in names}
        known = scsi.units(devices.SYSFS)
        for session in sessions:
            units = iscsi.units_of(session, known)
            if session.name not in needed and not any(
                devices.is_in_use(unit.device) for unit in units
            ):
                initiator.logout(session)

    @cached_property
    def _locks(self) -> Locks:
        settings = self.settings
        return Locks(settings.locks, settings.host_uuid, settings.lock_seconds)

    @property
    def _notes(self) -> Path:
        return self.settings.run / "iscsi"

    def _note_use(self, sr_uuid: str, scsi_id: str) -> None:
        """Note which sessions an SR needs: those that reach its unit."""
        known = [unit for unit in scsi.units(devices.SYSFS) if unit.scsi_id == scsi_id]
        names = [each.name for each in iscsi.sessions(devices.SYSFS) if iscsi.units_of(each, known)]
        self._notes.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"boot": boot_id(), "sessions": names})
        durable.write_file(self._notes / sr_uuid, content.encode("utf-8"))

    def _users(self) -> dict[str, list[str]]:
        """The sessions that each attached SR needs."""
        found: dict[str, list[str]] = {}
        for path in self._notes.glob("*-*-*-*-*"):
            with suppress(FileNotFoundError):
                note = json.loads(path.read_text(encoding="utf-8"))
                if note["boot"] == boot_id():
                    found[path.name] = note["sessions"]
        return found


def _wanted(device_config: Mapping[str, str]) -> Wanted:
    """What device_config names, checked; the portal answers, or `ISCSITarget` is raised."""
    target = given.text(device_config, "target")
    if not target:
        raise SmError(name="ConfigTargetMissing")
    target = given.host(target, "target")
    port = given.port(given.text(device_config, "port"), "port", iscsi.PORT, "ISCSIPort")
    iqn = given.text(device_config, "targetIQN")
    if iqn and iqn != iscsi.ANY:
        iqn = iscsi.require_name(iqn)
    scsi_id = given.text(device_config, "SCSIid")
    if scsi_id:
        scsi_id = scsi.require_scsi_id(scsi_id)
    chap, every = iscsi.chap(device_config), given.flag(device_config, "multihomed")
    initiator.require_initiator()
    address = reach.answering(target, port, "ISCSITarget")
    return Wanted(address, port, iqn, scsi_id, every, chap)


def _matching(wanted: Wanted) -> list[Session]:
    known = iscsi.sessions(devices.SYSFS)
    return [each for each in known if wanted.iqn in (each.iqn, iscsi.ANY)]


def _reached(wanted: Wanted) -> list[scsi.Unit]:
    """The units of the target, or of all targets if any will do."""
    known = scsi.units(devices.SYSFS)
    return [unit for each in _matching(wanted) for unit in iscsi.units_of(each, known)]


def _among(target: Target, sessions: list[Session]) -> bool:
    there = {(each.address, each.port, each.iqn) for each in sessions}
    return (target.address, target.port, target.iqn) in there


def main() -> None:
    """Answer one call: the executable `LVMoISCSISR`."""
    plugin.main(LvmOverIscsiSr)
