"""LVM for tests: it sees none of this machine's own disks, and needs no udev.

Where no udev runs, nobody makes the nodes below /dev for new volumes unless LVM and libdevmapper
are told to: the variable DM_DISABLE_UDEV tells both.
"""

from __future__ import annotations

from pathlib import Path

LVM_CONF = """\
# Made for the tests: loop devices, disks of a guest, and what the tests map onto these.
devices {
    global_filter = [ "a|^/dev/loop|", "a|^/dev/ubd|", "a|^/dev/mapper/sm-test-|", "r|.*|" ]
    use_devicesfile = 0
    obtain_device_list_from_udev = 0
    external_device_info_source = "none"
}
global {
    # The end of asynchronous reading costs 30 ms in each command.
    use_aio = 0
}
activation {
    udev_sync = @UDEV@
    udev_rules = @UDEV@
    monitoring = 0
}
backup {
    archive = 0
}
"""


def lvm_conf(*, udev: bool) -> str:
    """The text of an lvm.conf; with `udev` the nodes of volumes are left to it."""
    return LVM_CONF.replace("@UDEV@", str(int(udev)))


def environment(folder: Path, *, udev: bool) -> dict[str, str]:
    """The variables under which LVM reads the lvm.conf in `folder`."""
    variables = {"LVM_SYSTEM_DIR": str(folder)}
    return variables if udev else {**variables, "DM_DISABLE_UDEV": "1"}
