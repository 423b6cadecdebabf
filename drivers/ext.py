"""The EXT SR: a file system of its own on local devices; then as File.

The devices make a volume group `XSLocalEXT-<sr_uuid>` with one volume, `<sr_uuid>`. While it is
being made the group has a tag, so a crash leaves either a group with the tag, over which `create`
may be repeated, or devices that LVM calls its own and nothing more, which is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sm import plugin, process
from sm.attachment import Attachment
from sm.block import devices, given, mounts
from sm.cowutil.registry import FORMATS
from sm.drivers import directory
from sm.drivers.mounted import MountedSr
from sm.errors import InvalidArgument, SmError, SrExists, SrUnavailable, ToolFailed
from sm.smapi.driver_info import DriverInfo
from sm.sr import FoundSr
from sm.uuids import require_uuid
from sm.volumes.lvm.commands import Lvm

PREFIX = "XSLocalEXT-"
UNFINISHED = "sm-unfinished"
"""Tag of a group whose file system is not made yet."""

OPTIONS = ("nodev", "nosuid", "noexec")
MAKE_SECONDS = 1800.0
CHECK_SECONDS = 3600.0


class ExtSr(MountedSr):
    """Images in an ext4 file system on the devices `device_config:device`."""

    info = DriverInfo(
        sr_type="ext",
        name="EXT SR",
        description="Keeps virtual disks as files in a file system on local devices",
        features=directory.FEATURES,
        configuration=(
            ("device", "absolute paths of the block devices, by commas"),
            directory.PREFERRED,
        ),
        image_formats=tuple(FORMATS),
    )
    unmount_error = "LVMUnMount"

    def probe(self, device_config: Mapping[str, str]) -> list[FoundSr]:
        """The SRs whose volume groups are on the devices."""
        named = _devices(device_config)
        groups = _groups(Lvm(named))
        return [
            FoundSr(name.removeprefix(PREFIX), tuple(map(str, named)), int(row["vg_size"]))
            for name, row in sorted(groups.items())
            if _is_sr(name) and UNFINISHED not in _tags(row)
        ]

    def create(self, sr_uuid: str, device_config: Mapping[str, str], size: int) -> None:
        """Take empty devices, all of them whole; `size` has no meaning."""
        named = _devices(device_config)
        lvm, group, volume = Lvm(named), PREFIX + sr_uuid, _volume(sr_uuid)
        folder = self.settings.mounts / sr_uuid
        if _left_by_create(lvm, group, named):
            mounts.unmount(folder, self.unmount_error)
            lvm.change("lvremove", "--force", group)
        else:
            for device in named:
                devices.require_empty(device)
            lvm.change("vgcreate", "--addtag", UNFINISHED, group, *map(str, named))
        lvm.change(
            *("lvcreate", "--name", sr_uuid, "--extents", "100%FREE"),
            *("--stripes", str(len(named)), "--wipesignatures", "y", group),
        )
        _make_file_system(volume)
        with mounts.unmounted_after(folder, self.unmount_error):
            _mount(volume, folder)
            directory.take(folder, sr_uuid, "FileSRCreate")
        lvm.local("lvchange", "--activate", "n", f"{group}/{sr_uuid}")
        lvm.change("vgchange", "--deltag", UNFINISHED, group)

    def mount(self, sr_uuid: str, device_config: Mapping[str, str], folder: Path) -> None:
        """Activate the volume; check the file system, and mend what is safe, before it is used."""
        lvm, group = Lvm(_devices(device_config)), PREFIX + sr_uuid
        row = _groups(lvm).get(group)
        if row is None:
            raise SrUnavailable(f"there is no volume group {group} on {device_config['device']}")
        if UNFINISHED in _tags(row):
            raise SrUnavailable(f"{group} was not made to its end; create the SR again")
        lvm.local("lvchange", "--activate", "y", f"{group}/{sr_uuid}")
        if mounts.mounted_at(folder) is None:
            _check_file_system(_volume(sr_uuid))
        _mount(_volume(sr_uuid), folder)

    def unmounted(self, sr_uuid: str) -> None:
        """Deactivate the volume, if it is active."""
        volume = _volume(sr_uuid)
        if volume.exists():
            lvm = Lvm(devices.below(volume.resolve()))
            lvm.local("lvchange", "--activate", "n", f"{PREFIX}{sr_uuid}/{sr_uuid}")

    def destroy(self, attachment: Attachment, device_config: Mapping[str, str]) -> None:
        """Unmount, and give back the devices."""
        self.detach(attachment)
        named = _devices(device_config)
        lvm = Lvm(named)
        lvm.change("vgremove", "--force", PREFIX + attachment.sr_uuid)
        lvm.change("pvremove", *map(str, named))


def _devices(device_config: Mapping[str, str]) -> list[Path]:
    found = [devices.block_device(path) for path in given.device_paths(device_config)]
    if len(set(found)) < len(found):
        raise SmError("one device has two names there", name="ConfigDeviceInvalid")
    return found


def _groups(lvm: Lvm) -> dict[str, dict[str, str]]:
    rows = lvm.report("vgs", "-o", "vg_name,vg_size,vg_tags")
    return {row["vg_name"]: row for row in rows}


def _tags(row: Mapping[str, str]) -> list[str]:
    return row["vg_tags"].split(",")


def _is_sr(group: str) -> bool:
    try:
        require_uuid(group.removeprefix(PREFIX))
    except InvalidArgument:
        return False
    return group.startswith(PREFIX)


def _left_by_create(lvm: Lvm, group: str, named: list[Path]) -> bool:
    """Whether a crash left the group without a file system; raises `SrExists` for a whole one."""
    row = _groups(lvm).get(group)
    if row is None:
        return False
    if UNFINISHED not in _tags(row):
        raise SrExists(f"{group} is there already")
    members = lvm.report("pvs", "-o", "pv_name,vg_name")
    there = {Path(row["pv_name"]).resolve() for row in members if row["vg_name"] == group}
    if there != set(named):
        raise SrExists(f"{group} was begun on {', '.join(sorted(map(str, there)))}; name the same")
    return True


def _volume(sr_uuid: str) -> Path:
    return Path("/dev", PREFIX + sr_uuid, sr_uuid)


def _mount(volume: Path, folder: Path) -> None:
    try:
        mounts.mount(str(volume), folder, "ext4", OPTIONS)
    except ToolFailed as failed:
        raise SrUnavailable(failed.detail) from failed


def _make_file_system(volume: Path) -> None:
    # Nothing is kept back for root: only root writes there.
    command = ["mkfs.ext4", "-q", "-F", "-m", "0", str(volume)]
    try:
        process.run(command, timeout=MAKE_SECONDS)
    except ToolFailed as failed:
        raise SmError(failed.detail, name="LVMFilesystem") from failed


def _check_file_system(volume: Path) -> None:
    """Replay the journal and mend what e2fsck mends without a question; refuse anything more."""
    try:
        process.run(["e2fsck", "-p", str(volume)], timeout=CHECK_SECONDS, accept=(0, 1))
    except ToolFailed as failed:
        raise SrUnavailable(
            f"the file system is damaged; see 'e2fsck -n {volume}': {failed.detail}"
        ) from failed


def main() -> None:
    """Answer one call: the executable `EXTSR`."""
    plugin.main(ExtSr)
