"""The NFS server of the kernel on the loopback network, with one file system exported."""

from __future__ import annotations

from pathlib import Path

from tests.support.lvm.tools import call
from tests.support.servers.kernel import require_guest, start

ROOT = Path("/srv/nfs")
"""What is exported: clients of version 3 name it so, for those of version 4 it is `/`."""

SIZE = "1G"
STATE = Path("/var/lib/nfs")


class NfsServer:
    """Runs until the guest ends."""

    def __init__(self) -> None:
        require_guest()
        call("modprobe", "--all", "nfsd", "nfs", "nfsv3", "nfsv4")
        call("mount", "-t", "tmpfs", "tmpfs", STATE)
        for name in ("v4recovery", "sm", "sm.bak", "rpc_pipefs"):
            (STATE / name).mkdir()
        for name in ("etab", "rmtab", "state"):
            (STATE / name).touch()
        Path("/run/rpcbind").mkdir(exist_ok=True)
        # A memory file system cannot be exported without an identity, and has no room for more.
        image = Path("/tmp/nfs.img")
        call("truncate", "-s", SIZE, image)
        call("mkfs.ext4", "-q", image)
        ROOT.mkdir(parents=True)
        call("mount", "-o", "loop", image, ROOT)
        call("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
        # Locks are given at once: no client of an earlier server comes back for its own.
        call("modprobe", "lockd", "nlm_grace_period=1")
        Path("/proc/sys/fs/nfs/nlm_grace_period").write_text("1")
        Path("/proc/fs/nfsd/nfsv4leasetime").write_text("10")
        Path("/proc/fs/nfsd/nfsv4gracetime").write_text("10")
        start("rpcbind", "-w")
        self.export("rw")
        start("rpc.mountd")
        self.start()

    def export(self, access: str) -> None:
        """Let clients read and write (`rw`), or only read (`ro`)."""
        options = f"{access},no_root_squash,no_subtree_check,insecure,fsid=0"
        Path("/etc/exports").write_text(f"{ROOT} *({options})\n")
        call("exportfs", "-ra")
        self.is_changed = access != "rw"

    def start(self, *options: str) -> None:
        """Serve, with options of rpc.nfsd."""
        call("rpc.nfsd", *options, "4")
        # As for locks of version 3: nobody comes back for what he had open.
        Path("/proc/fs/nfsd/v4_end_grace").write_text("Y")

    def stop(self) -> None:
        """Answer nobody any more."""
        call("rpc.nfsd", "0")
        self.is_changed = True

    def restore(self) -> None:
        """Serve as at first, if something was changed; clients need a while to come back."""
        if self.is_changed:
            self.stop()
            self.export("rw")
            self.start("--nfs-version", "3")

    @staticmethod
    def path(name: str, version: str) -> str:
        """How clients name a folder of the export."""
        return f"{ROOT}/{name}" if version == "3" else f"/{name}"
