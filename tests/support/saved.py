"""A site as it is now, to be had again and again without making it anew."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from tests.support.site import Site

CHUNK = 64 << 10


class Saved:
    """All files of a site at rest, and its folders, which stay: an SR knows its folder.

    `apart` are files that are left as they are.
    """

    def __init__(self, site: Site, apart: Collection[Path] = ()) -> None:
        self.site = site
        self._apart = frozenset(apart)
        site.release()
        paths = [path for path in site.folder.rglob("*") if path not in self._apart]
        self._folders = {path for path in paths if path.is_dir()}
        self._files = {path: path.read_bytes() for path in paths if path not in self._folders}
        self._modes = {path: path.stat().st_mode for path in self._files}
        self._last = {path: _mark(path) for path in self._files}

    def restore(self) -> None:
        """Bring back what was there, and take away all else."""
        self.site.release()
        for path in sorted(self.site.folder.rglob("*"), reverse=True):
            if stat.S_ISDIR(path.lstat().st_mode):
                if path not in self._folders:
                    path.rmdir()
            elif path in self._apart:
                continue
            elif path not in self._files or _mark(path) != self._last[path]:
                path.unlink()
        for path, content in self._files.items():
            if not path.exists():
                _write(path, content)
                path.chmod(self._modes[path])
                self._last[path] = _mark(path)


def _mark(path: Path) -> tuple[int, ...]:
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink


def _write(path: Path, content: bytes) -> None:
    """Write a file anew, with holes for its zeroes."""
    with path.open("xb") as file:
        for start in range(0, len(content), CHUNK):
            piece = content[start : start + CHUNK]
            if piece.count(0) < len(piece):
                os.pwrite(file.fileno(), piece, start)
        file.truncate(len(content))
