"""Volumes as files `<uuid>.<format>` in one folder; the records in its subfolder `.sm`.

A folder that an existing installation filled is read as it is. Temporary files begin with `.new-`;
as they appear and vanish only under the SR lock, one that is found without it held is left over.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sm import durable
from sm.config import Settings
from sm.cowutil.holes import keep_room
from sm.cowutil.registry import Formats
from sm.errors import SrNoSpace, SrUnavailable, VdiExists, VdiMissing
from sm.volumes import catalogue_json
from sm.volumes.base import Listing, Make, Room, Space, Stranger, Volume, VolumeStore
from sm.volumes.described import Catalogue, Keep

log = logging.getLogger(__name__)

RECORDS = ".sm"
CATALOGUE = "catalogue.json"
"""The names of the disks, beside the records; no record itself, because those are read often."""

FILE_MODE = 0o600  # guest data is nobody else's business
BLOCK = 512  # unit of st_blocks, whatever the file system's own

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_NAME = re.compile(rf"({_UUID})\.([a-z0-9]+)")


def identity(folder: Path) -> tuple[int, int]:
    """Device and inode of a folder: what changes when a mount goes away or another comes."""
    status = folder.stat()
    return status.st_dev, status.st_ino


class DirectoryStore(VolumeStore):
    """The images of the given formats in `folder`, which had `identity` when it was attached."""

    def __init__(self, folder: Path, expected: tuple[int, int], formats: Collection[str]) -> None:
        self.folder = folder
        self._expected = expected
        self._formats = frozenset(formats)

    def require_present(self) -> None:
        """Refuse when the folder is gone, or is another one than at attach."""
        try:
            present = identity(self.folder)
        except OSError as error:
            raise SrUnavailable(f"{self.folder}: {error.strerror}") from error
        if present != self._expected:
            raise SrUnavailable(
                f"{self.folder} is not the folder that was attached; was something mounted over it"
                " or unmounted?"
            )

    def is_read_only(self) -> bool:
        """As its file system is mounted, or has become after an error."""
        return bool(os.statvfs(self.folder).f_flag & os.ST_RDONLY)

    def listing(self) -> Listing:
        """Every image file; a name that is not ours but ends like an image is a stranger."""
        self.require_present()
        volumes: list[Volume] = []
        strangers: list[Stranger] = []
        with os.scandir(self.folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith(durable.TEMPORARY_PREFIX):
                    continue
                suffix = Path(entry.name).suffix[1:]
                if suffix not in self._formats or entry.is_dir():
                    continue
                match = _NAME.fullmatch(entry.name)
                if match and entry.is_file(follow_symlinks=False):
                    # Another host may remove or rename what this one looks at.
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        volumes.append(_volume(match[1], match[2], Path(entry.path), status))
                else:
                    strangers.append(Stranger(entry.name, suffix, Path(entry.path)))
        return Listing(tuple(volumes), tuple(strangers))

    def change_mark(self) -> str:
        """The time of the folder's last change, as its file system counts it."""
        self.require_present()
        return str(self.folder.stat().st_mtime_ns)

    def volume(self, uuid: str, image_format: str) -> Volume:
        """The file of one image."""
        path = self.path(uuid, image_format)
        try:
            status = path.lstat()
        except FileNotFoundError as error:
            self.require_present()
            raise VdiMissing(f"{uuid}: no {path.name}") from error
        if not stat.S_ISREG(status.st_mode):
            raise VdiMissing(f"{uuid}: {path.name} is not a regular file")
        return _volume(uuid, image_format, path, status)

    def exists(self, uuid: str, image_format: str) -> bool:
        """Whether something has its name."""
        return self.path(uuid, image_format).exists()

    def path(self, uuid: str, image_format: str) -> Path:
        """`<uuid>.<format>` in the folder."""
        return self.folder / f"{uuid}.{image_format}"

    def parent_uuid(self, name: str) -> tuple[str, str] | None:
        """Take the file name apart."""
        match = _NAME.fullmatch(name)
        return (match[1], match[2]) if match and match[2] in self._formats else None

    def create(
        self, uuid: str, image_format: str, make: Make, before: Callable[[int], None], room: Room
    ) -> None:
        """Write under a temporary name, then rename."""
        del room  # files grow by themselves
        path = self.path(uuid, image_format)
        if path.exists():
            raise VdiExists(f"{path} exists")
        temporary = self._temporary(path)
        try:
            make(temporary)
            temporary.chmod(FILE_MODE)
            before(temporary.stat().st_blocks * BLOCK)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        try:
            durable.rename(temporary, path)
        except BaseException:
            # The name may be there and not last: a volume that may vanish must not be.
            path.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
            raise

    def displace(self, uuid: str, image_format: str, to: str, make: Make, room: Room) -> None:
        """Link the file to its second name, then rename a new file over the first."""
        del room  # files grow by themselves
        old, new = self.path(uuid, image_format), self.path(to, image_format)
        os.link(old, new)
        durable.sync_folder(self.folder)
        temporary = self._temporary(old)
        make(temporary)
        temporary.chmod(FILE_MODE)
        durable.rename(temporary, old)

    def displaced(self, uuid: str, image_format: str, to: str) -> bool:
        """Whether both names are there and lead to different files."""
        old, new = self.path(uuid, image_format), self.path(to, image_format)
        return old.exists() and new.exists() and not old.samefile(new)

    def undo_displace(self, uuid: str, image_format: str, to: str) -> None:
        """Take away the second name while it still means the same file."""
        if not self.displaced(uuid, image_format, to):
            durable.remove(self.path(to, image_format))

    def supersede(self, uuid: str, image_format: str, by: str) -> None:
        """One rename."""
        durable.rename(self.path(by, image_format), self.path(uuid, image_format))

    def reserve(self, uuid: str, image_format: str, growth: int) -> None:
        """Take blocks behind the end of the file, where the file system has such."""
        with self.path(uuid, image_format).open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            try:
                keep_room(file.fileno(), end, growth)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._cut(file.fileno())
                raise SrNoSpace(f"{growth} bytes for {self.path(uuid, image_format)}") from error

    def trim(self, uuid: str, image_format: str) -> None:
        """Cut the file where it ends, which frees the blocks behind."""
        with self.path(uuid, image_format).open("rb+") as file:
            self._cut(file.fileno())

    @staticmethod
    def _cut(descriptor: int) -> None:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size)

    def superseded(self, uuid: str, image_format: str, by: str) -> bool:
        """The name `by` is gone. Whoever renamed it may not have come to sync the folder."""
        self.require_present()
        if self.path(by, image_format).exists():
            return False
        durable.sync_folder(self.folder)
        return self.path(uuid, image_format).exists()

    def fingerprint(self, uuid: str, image_format: str) -> str:
        """Inode, length, and time of the last write."""
        status = self.path(uuid, image_format).stat()
        return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"

    def remove(self, uuid: str, image_format: str) -> None:
        """Unlink the file."""
        self.require_present()
        durable.remove(self.path(uuid, image_format))

    def unfinished(self) -> tuple[str, ...]:
        """The names of the temporary files."""
        self.require_present()
        return tuple(sorted(path.name for path in self._unfinished()))

    def remove_unfinished(self) -> int:
        """Unlink temporary files."""
        freed = 0
        for path in self._unfinished():
            freed += path.stat().st_blocks * BLOCK
            path.unlink()
        return freed

    def _unfinished(self) -> list[Path]:
        unfinished = f"{durable.TEMPORARY_PREFIX}*"
        # A tool that makes a file may stage it once more, behind another dot.
        found = [*self.folder.glob(unfinished), *self.folder.glob(f".{unfinished}")]
        if (self.folder / RECORDS).is_dir():
            # A merge may write how far it has come without the lock, while it lives.
            found += durable.left_by_killed(self.folder / RECORDS)
        return found

    def space(self) -> Space:
        """What the file system says."""
        self.require_present()
        status = os.statvfs(self.folder)
        total = status.f_blocks * status.f_frsize
        return Space(
            total=total,
            used=total - status.f_bfree * status.f_frsize,
            free=status.f_bavail * status.f_frsize,
        )

    def records(self) -> dict[str, bytes]:
        """The files of the records folder."""
        self.require_present()
        found: dict[str, bytes] = {}
        for name in self._record_names():
            if name != CATALOGUE and not name.startswith(durable.TEMPORARY_PREFIX):
                with suppress(FileNotFoundError):  # removed by another host in this moment
                    try:
                        found[name] = durable.read_file(self.folder / RECORDS / name)
                    except durable.BadFile as error:
                        log.warning("%s/%s/%r: %s", self.folder, RECORDS, name, error)
                        found[name] = b""
        return found

    def _record_names(self) -> list[str]:
        """What is in the records folder; nothing where there is none.

        Raises `SrUnavailable` where something else has its name: then nothing is known of the SR.
        """
        folder = self.folder / RECORDS
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SrUnavailable(f"{folder} is no folder of records: {error.strerror}") from error
        try:
            return sorted(os.listdir(descriptor))  # noqa: PTH208 - of this very folder
        finally:
            os.close(descriptor)

    def write_record(self, name: str, content: bytes) -> None:
        """Replace the file of one record."""
        folder = self.folder / RECORDS
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
            durable.sync_folder(self.folder)
        # Who else writes here may be on another host: see `remove_unfinished`.
        durable.write_file(folder / name, content, tidy=False)

    def rename_record(self, name: str, new: str) -> None:
        """Rename the file, or whatever has its place."""
        folder = self.folder / RECORDS
        durable.rename(folder / name, folder / new)

    def remove_record(self, name: str) -> None:
        """Unlink the file of one record."""
        if (self.folder / RECORDS).is_dir():
            durable.remove(self.folder / RECORDS / name)

    def descriptions(self) -> Catalogue:
        """Read the file of the names."""
        return catalogue_json.read(self._catalogue())

    def is_described(self, catalogue: Catalogue, keep: Keep) -> bool:
        """Compare the file with what it would be."""
        present = self._catalogue()
        return catalogue_json.following(present, catalogue, keep) == present

    def describe(self, catalogue: Catalogue, keep: Keep) -> None:
        """Replace the file, if it would be another one."""
        present = self._catalogue()
        wanted = catalogue_json.following(present, catalogue, keep)
        if wanted != present:
            self.write_record(CATALOGUE, wanted)

    def forget_descriptions(self) -> None:
        """Unlink the file."""
        self.remove_record(CATALOGUE)

    def _catalogue(self) -> bytes:
        """The file of the names, or more of it than may be read; empty where there is none."""
        self.require_present()
        try:
            with (self.folder / RECORDS / CATALOGUE).open("rb") as file:
                return file.read(catalogue_json.MOST_BYTES + 1)
        except FileNotFoundError:
            return b""

    def _temporary(self, path: Path) -> Path:
        return path.with_name(f"{durable.TEMPORARY_PREFIX}{path.name}")


def place_of(folder: Path) -> dict[str, Any]:
    """What `open_store` needs to find a folder again; see `sm.attachment`."""
    return {"path": str(folder), "identity": list(identity(folder))}


def open_store(place: Mapping[str, Any], formats: Formats, settings: Settings) -> DirectoryStore:
    """The store of an attached folder."""
    del settings
    device, inode = place["identity"]
    return DirectoryStore(Path(place["path"]), (device, inode), formats.names)


def _volume(uuid: str, image_format: str, path: Path, status: os.stat_result) -> Volume:
    inode = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
    used = status.st_blocks * BLOCK
    return Volume(uuid, image_format, path, status.st_size, used, inode=inode)
