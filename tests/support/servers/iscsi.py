"""The iSCSI target of the kernel on the loopback network, set up by configfs; and its initiator."""

from __future__ import annotations

import uuid
from pathlib import Path

from tests.support.lvm.tools import call
from tests.support.servers.kernel import require_guest, start

TARGETS = Path("/sys/kernel/config/target")
PORTAL = "127.0.0.1:3260"
INITIATOR = "iqn.2004-10.org.example:host"


class IscsiServer:
    """One target behind one portal, in a guest until it ends."""

    def __init__(self, iqn: str = "iqn.2003-01.org.example:store") -> None:
        require_guest()
        self.iqn = iqn
        self._group = TARGETS / "iscsi" / iqn / "tpgt_1"
        self._units = 0
        if not TARGETS.exists():
            modules = ("target_core_mod", "target_core_file", "iscsi_target_mod")
            call("modprobe", "--all", *modules, "iscsi_tcp", "sd_mod")
            call("mount", "-t", "configfs", "none", "/sys/kernel/config")
            Path("/run/lock/iscsi").mkdir(parents=True, exist_ok=True)
            name = Path("/etc/iscsi/initiatorname.iscsi")
            name.write_text(f"InitiatorName={INITIATOR}\n")
            start("iscsid")
        (TARGETS / "iscsi").mkdir(exist_ok=True)
        (self._group / "np" / PORTAL).mkdir(parents=True)
        for name, value in (("authentication", 0), ("generate_node_acls", 1)):
            self._set(f"attrib/{name}", str(value))
        self._set("attrib/demo_mode_write_protect", "0")
        self._set("enable", "1")

    def require_chap(self, user: str, password: str) -> None:
        """Let in only who knows these, also to ask what targets there are."""
        self._set("auth/userid", user)
        self._set("auth/password", password)
        self._set("attrib/authentication", "1")
        discovery = TARGETS / "iscsi" / "discovery_auth"
        (discovery / "userid").write_text(user)
        (discovery / "password").write_text(password)
        (discovery / "enforce_discovery_auth").write_text("1")

    def allow_everybody(self) -> None:
        """Undo `require_chap`."""
        self._set("attrib/authentication", "0")
        (TARGETS / "iscsi" / "discovery_auth" / "enforce_discovery_auth").write_text("0")

    def add_unit(self, image: Path) -> str:
        """Show a file as the next unit of the target; returns its SCSI id."""
        number, self._units = self._units, self._units + 1
        backing = TARGETS / "core" / "fileio_0" / f"{self.iqn.rpartition(':')[2]}-{number}"
        backing.mkdir(parents=True)
        size = image.stat().st_size
        (backing / "control").write_text(f"fd_dev_name={image},fd_dev_size={size}\n")
        serial = str(uuid.uuid4())
        (backing / "wwn" / "vpd_unit_serial").write_text(f"{serial}\n")
        (backing / "enable").write_text("1\n")
        unit = self._group / "lun" / f"lun_{number}"
        unit.mkdir(parents=True)
        (unit / "port").symlink_to(backing)
        # Its name is the target's vendor and the beginning of the serial number (NAA, 16 bytes).
        return f"36001405{serial.replace('-', '')[:25]}"

    def _set(self, name: str, value: str) -> None:
        (self._group / name).write_text(value)
