"""VHD for the double: our own code, over the links in the images, and with libvhd's bad habits."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from sm.cowutil.base import ImageRef
from sm.cowutil.vhd.block_file import ImageFile, read
from sm.cowutil.vhd.util import VhdUtil
from sm.datapath.vhd_nbd.disk import ChainDisk
from sm.datapath.vhd_nbd.layers import open_layers
from sm.process import run

FOOTER = 512
WIPED = b"\xc7" * FOOTER


class VhdChain:
    """A chain that is open; `export` is its disk.

    As libvhd: the leaf has no lock, the footer at its end is wiped as long as it is open, and
    closing writes both footers from memory.
    """

    commits = False

    def __init__(self, leaf: Path, *, read_only: bool) -> None:
        chain, util = [ImageRef(leaf, "vhd")], VhdUtil(run)
        while chain[-1].format == "vhd" and (link := util.info(chain[-1].path).parent):
            chain.append(ImageRef(leaf.with_name(link.name), link.format or "vhd"))
        self._chain = chain
        self._leaf: ImageFile | None = None
        with ExitStack() as stack:
            if not read_only:
                # By descriptor: it may be renamed while it is open.
                self._leaf = ImageFile(leaf, os.open(leaf, os.O_RDWR | os.O_CLOEXEC), True)
                stack.callback(self._leaf.close)
            layers = open_layers(stack, chain if read_only else chain[1:])
            self.export = ChainDisk(chain, self._leaf, layers, stack.pop_all())
        if self._leaf is not None:
            self._footer = read(self._leaf, 0, FOOTER)
            self._leaf.write(self._leaf.size() - FOOTER, WIPED)

    def chain(self) -> list[str]:
        return [str(image.path) for image in self._chain]

    def close(self) -> None:
        self.export.flush()
        if self._leaf is not None:
            for at in (0, self._leaf.size() - FOOTER):
                self._leaf.write(at, self._footer)
        self.export.close()
