"""A driver that mounts a file system of its own for each SR, whose images are then files in it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from sm.attachment import Attachment
from sm.block import mounts
from sm.drivers import directory
from sm.sr import SrDriver


class MountedSr(SrDriver):
    """Knows when to mount and to unmount; a subclass says what, and what else is needed for it."""

    unmount_error = "NFSUnMount"

    @abstractmethod
    def mount(self, sr_uuid: str, device_config: Mapping[str, str], folder: Path) -> None:
        """Mount the file system of an SR, if it is not mounted there already."""

    def unmounted(self, sr_uuid: str) -> None:
        """Release what lies below the file system, which is not mounted any more."""

    def attach(self, sr_uuid: str, device_config: Mapping[str, str]) -> Attachment:
        """Mount; on the master, see that files can be made there."""
        folder = self.settings.mounts / sr_uuid
        new = mounts.mounted_at(folder) is None
        try:
            self.mount(sr_uuid, device_config, folder)
            directory.require(folder, sr_uuid)
            if device_config.get("SRmaster") == "true":
                directory.require_writable(folder, self.settings.host_uuid)
            return self.attachments.directory(sr_uuid, self.info.sr_type, folder)
        except BaseException:
            if new:
                with mounts.failures_logged(folder):
                    mounts.unmount(folder, self.unmount_error)
                    self.unmounted(sr_uuid)
            raise

    def detach(self, attachment: Attachment) -> None:
        """Unmount; refused while anything uses a file there."""
        mounts.unmount(Path(attachment.place["path"]), self.unmount_error)
        self.unmounted(attachment.sr_uuid)
