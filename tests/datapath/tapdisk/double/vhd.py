"""VHD for the double: our own code, over the links in the images, and with libvhd's bad habit."""

from __future__ import annotations

from pathlib import Path

from sm.datapath.vhd_nbd.files import WriterLock

from sm.cowutil.base import ImageRef
from sm.cowutil.vhd.util import VhdUtil
from sm.datapath.vhd_nbd.disk import open_disk
from sm.process import run

FOOTER = 512
COOKIE = b"conectix"


class VhdChain:
    """A chain that is open; `export` is its disk. Closing rewrites both footers from memory."""

    commits = False

    def __init__(self, leaf: Path, *, read_only: bool) -> None:
        chain, util = [ImageRef(leaf, "vhd")], VhdUtil(run)
        while chain[-1].format == "vhd" and (link := util.info(chain[-1].path).parent):
            chain.append(ImageRef(leaf.with_name(link.name), link.format or "vhd"))
        self._chain = chain
        with leaf.open("rb") as file:
            self._footer = file.read(FOOTER)
        self._lock = None if read_only else WriterLock(leaf)
        # By descriptor: it may be renamed while it is open.
        self._file = leaf.open("rb" if read_only else "r+b", buffering=0)
        self.export = open_disk(chain, self._lock)

    def chain(self) -> list[str]:
        return [str(image.path) for image in self._chain]

    def close(self) -> None:
        self.export.flush()
        self.export.close()
        if self._lock is not None:
            self._lock.release()
            size = self._file.seek(0, 2)
            for at in (0, size - FOOTER):
                self._file.seek(at)
                if self._file.read(FOOTER).startswith(COOKIE):
                    self._file.seek(at)
                    self._file.write(self._footer)
        self._file.close()
