"""The NFS SR: a folder of a file server, mounted on each host that attaches it; then as File.

The images lie in `<serverpath>/<sr_uuid>`, so one export can hold many SRs; with `nosubdir` they
lie in the export itself.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sm import plugin
from sm.attachment import Attachment
from sm.block import given, mounts, nfs, reach
from sm.cowutil.registry import FORMATS
from sm.drivers import directory
from sm.drivers.mounted import MountedSr
from sm.errors import ChoiceNeeded, InvalidArgument, SmError, ToolFailed
from sm.locks import Locks
from sm.smapi import probe
from sm.smapi.driver_info import DriverInfo
from sm.sr import FoundSr
from sm.uuids import require_uuid
from sm.volumes.directory import RECORDS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Export:
    """A folder of a server, as device_config names it; all values are safe as arguments."""

    server: str
    path: str
    version: str
    options: tuple[str, ...]
    whole: bool
    """Whether the SR has the export for itself: `nosubdir`."""

    def folder_of(self, sr_uuid: str) -> str:
        """What holds the images of an SR, as it is mounted."""
        return nfs.source(
            self.server, self.path if self.whole else f"{self.path.rstrip('/')}/{sr_uuid}"
        )

    @property
    def root(self) -> str:
        """The export itself, as it is mounted."""
        return nfs.source(self.server, self.path)

    @property
    def port(self) -> int:
        """The TCP port of the server."""
        return nfs.service_port(self.options)


class NfsSr(MountedSr):
    """Images in a folder of the server `device_config:server`."""

    info = DriverInfo(
        sr_type="nfs",
        name="NFS SR",
        description="Keeps virtual disks as files in a folder of an NFS server",
        features=directory.FEATURES,
        configuration=(
            ("server", "host name or address of the server"),
            ("serverpath", "absolute path of the exported folder"),
            ("nfsversion", f"{', '.join(nfs.VERSIONS)}; {nfs.DEFAULT_VERSION} if not given"),
            ("options", "more options of the mount, by commas"),
            ("probeversion", "set to have a probe tell the versions that the server supports"),
            directory.PREFERRED,
        ),
        image_formats=tuple(FORMATS),
    )
    sm_config_keys = ("nosubdir",)

    def probe(self, device_config: Mapping[str, str]) -> list[FoundSr]:
        """The SRs in the export: folders that are called like one, or the export itself."""
        export = self._export(device_config)
        with self._mounted(export, "sr_probe") as folder:
            whole = directory.holds(folder)
            found = [] if whole is None else [whole]
            found += sorted(path.name for path in folder.iterdir() if _is_sr(path))
        return [FoundSr(uuid) for uuid in dict.fromkeys(found)]

    def probe_document(self, found: list[FoundSr], device_config: Mapping[str, str]) -> str:
        """With the versions that the server supports, where they are asked for."""
        versions: list[str] = []
        if given.text(device_config, "probeversion"):
            export = _export(device_config)
            versions = nfs.supported_versions(export.server, export.port)
        return probe.sr_list([each.members() for each in found], versions)

    def create(self, sr_uuid: str, device_config: Mapping[str, str], size: int) -> None:
        """Make the folder in the export; `size` has no meaning for a folder."""
        export = self._export(device_config)
        with self._mounted(export, "sr_create") as folder:
            directory.require_writable(folder, self.settings.host_uuid)
            directory.take(folder if export.whole else folder / sr_uuid, sr_uuid, "NFSCreate")

    def mount(self, sr_uuid: str, device_config: Mapping[str, str], folder: Path) -> None:
        """Mount the folder of the SR."""
        export = self._export(device_config)
        self._mount(export, export.folder_of(sr_uuid), folder)

    def destroy(self, attachment: Attachment, device_config: Mapping[str, str]) -> None:
        """Unmount, and remove the folder that the SR had for itself if it is empty now."""
        self.detach(attachment)
        export = self._export(device_config)
        if export.whole:
            return
        with self._mounted(export, "sr_delete") as root:
            folder = root / attachment.sr_uuid
            try:
                (folder / RECORDS).rmdir()
                folder.rmdir()
            except FileNotFoundError:
                return
            except OSError as kept:
                log.info("%s stays on the server: %s", folder.name, kept.strerror)

    def _export(self, device_config: Mapping[str, str]) -> Export:
        """The export, whose server answers."""
        export = _export(device_config)
        reach.answering(export.server, export.port, "NFSTarget")
        return export

    def _mount(self, export: Export, source: str, folder: Path) -> None:
        options = nfs.mount_options(export.version, export.options)
        try:
            mounts.mount(source, folder, "nfs", options)
        except ToolFailed as failed:
            raise nfs.failed_as(failed, export.version) from failed

    @contextmanager
    def _mounted(self, export: Export, operation: str) -> Iterator[Path]:
        """The export itself, for a look or a change that is over soon."""
        name = f"export-{hashlib.sha256(export.root.encode()).hexdigest()[:16]}"
        folder = self.settings.mounts / name
        settings = self.settings
        locks = Locks(settings.locks, settings.host_uuid, settings.lock_seconds)
        with locks.hold("mount", name, operation):
            self._mount(export, export.root, folder)
            with mounts.unmounted_after(folder, "NFSUnMount"):
                yield folder


def _is_sr(path: Path) -> bool:
    try:
        require_uuid(path.name)
    except InvalidArgument:
        return False
    return path.is_dir()


def _export(device_config: Mapping[str, str]) -> Export:
    """What device_config names; without a path, the fault lists what the server offers."""
    server = given.text(device_config, "server")
    if not server:
        raise SmError(name="ConfigServerMissing")
    server = given.host(server, "server")
    options = nfs.given_options(device_config)
    version = nfs.version(device_config)
    path = given.text(device_config, "serverpath")
    if not path:
        reach.answering(server, nfs.service_port(options), "NFSTarget")
        raise _paths_of(server)
    path = given.absolute_path(path, "serverpath", "ConfigServerPathBad")
    return Export(server, path, version, options, given.flag(device_config, "nosubdir"))


def _paths_of(server: str) -> SmError:
    """The fault that says which paths there are to choose from."""
    try:
        offered = nfs.exports(server)
    except ToolFailed as failed:
        return SmError(failed.detail, name="ConfigServerPathMissing")
    document = probe.exports(
        {"Target": server, "Path": path, "Accesslist": access} for path, access in offered
    )
    paths = ", ".join(path for path, _ in offered)
    return ChoiceNeeded(f"it offers {paths}", document, name="ConfigServerPathMissing")


def main() -> None:
    """Answer one call: the executable `NFSSR`."""
    plugin.main(NfsSr)
