"""Names of served disks that do not change: known at attach, before any process runs."""

from __future__ import annotations

from pathlib import Path

from sm.config import Settings
from sm.datapath.base import Disk, Endpoint
from sm.datapath.sockets import existing_folder, release_folder, socket_folder


class Links:
    """The links of one host, below its run folder; each is named for SR and VDI."""

    def __init__(self, settings: Settings) -> None:
        self._run = settings.run

    def socket(self, disk: Disk) -> Path:
        """Where the NBD socket of a disk is found while it is active."""
        return socket_folder(self._run / "nbd" / disk.sr) / disk.vdi

    def file(self, disk: Disk) -> Path:
        """Where a disk is shown as a file, if it is to be."""
        return self._run / "disk" / disk.sr / disk.vdi

    def prepare_file(self, disk: Disk) -> Path:
        """`file`, in a folder that is there."""
        path = self.file(disk)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def make(self, disk: Disk, endpoint: Endpoint) -> None:
        """Let the name lead to the socket of the process that serves the disk."""
        if endpoint.socket is None:
            return
        while not self._made(self.socket(disk), endpoint.socket):
            continue  # the last other name went in this moment, and the folder with it

    def remove(self, disk: Disk) -> None:
        """Take the name away."""
        wanted = self._run / "nbd" / disk.sr
        folder = existing_folder(wanted)
        if folder is not None:
            (folder / disk.vdi).unlink(missing_ok=True)
            release_folder(wanted, lambda: bool(self.of_sr(disk.sr)))

    @staticmethod
    def _made(link: Path, socket: Path) -> bool:
        """Let a name lead to a socket, unless the folder of the name has gone."""
        fresh = link.with_name(f".new-{link.name}")
        fresh.unlink(missing_ok=True)
        try:
            fresh.symlink_to(socket)
            fresh.replace(link)
        except FileNotFoundError:
            return False
        return True

    def of_sr(self, sr: str) -> list[str]:
        """The VDIs of an SR that have a name here, whether it leads anywhere or not."""
        folder = existing_folder(self._run / "nbd" / sr)
        found = () if folder is None else folder.iterdir()
        return sorted(link.name for link in found if link.is_symlink() and link.name[0] != ".")
