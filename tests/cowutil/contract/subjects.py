"""What the contract needs of each format besides the format itself: to write as a guest would, to
read the disk by somebody else's code, and to see whether a file was touched."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sm.cowutil.base import CowUtil, ImageFormat, ImageRef
from sm.cowutil.chain import ChainReader
from sm.process import run
from tests.cowutil.contract.toy import ToyFormat


def tool(*argv: str) -> str:
    """Run a tool that must succeed."""
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def described(chain: Sequence[ImageRef]) -> str:
    """A chain for qemu, written independently of the code under test."""
    node: dict[str, object] | None = None
    for member in reversed(chain):
        node = {
            "driver": {"vhd": "vpc"}.get(member.format, member.format),
            "file": {
                "driver": "host_device" if member.path.is_block_device() else "file",
                "filename": str(member.path),
            },
            **({"backing": node} if node else {}),
        }
        if member.format == "vhd":
            node["force_size_calc"] = "current_size"
    return "json:" + json.dumps(node)


def qemu_io(chain: Sequence[ImageRef], *commands: str) -> None:
    """Run qemu-io commands on the uppermost image of a chain."""
    said = tool("qemu-io", *(part for each in commands for part in ("-c", each)), described(chain))
    assert "failed" not in said.lower(), said


def qemu_content(chain: Sequence[ImageRef]) -> bytes:
    """The disk as qemu reads it."""
    with tempfile.NamedTemporaryFile() as out:
        tool("qemu-img", "convert", "-O", "raw", described(chain), out.name)
        return Path(out.name).read_bytes()


def reader_content(images: ImageFormat, chain: Sequence[ImageRef]) -> bytes:
    """The disk as our own chain reader gives it."""
    with ExitStack() as stack:
        layers = [stack.enter_context(images.open_layer(member.path)) for member in chain]
        reader = ChainReader(layers, layers[0].virtual_size)
        return reader.pread(0, reader.virtual_size)


class Subject(ABC):
    """A format under test. A chain is given uppermost first."""

    images: ImageFormat

    def ref(self, folder: Path, name: str) -> ImageRef:
        """The image called `name`."""
        return ImageRef(folder / f"{name}.{self.images.name}", self.images.name)

    @abstractmethod
    def write(self, chain: Sequence[ImageRef], offset: int, length: int, byte: int) -> None:
        """Write `length` times `byte` into the uppermost image; a zero marks it zero if it can."""

    @abstractmethod
    def content(self, chain: Sequence[ImageRef]) -> bytes:
        """The whole disk seen through the uppermost image."""

    def store(self, image: ImageRef, stream: bytes) -> None:
        """Put a streamed image where it belongs."""
        image.path.write_bytes(stream)

    def fingerprint(self, image: ImageRef) -> object:
        """Equal as long as nobody wrote."""
        return image.path.read_bytes(), image.path.stat().st_mtime_ns

    def freeze(self, image: ImageRef) -> None:
        """Take away the right to write."""
        image.path.chmod(0o444)


class CowSubject(Subject):
    """A copy-on-write format under test."""

    images: CowUtil


class Raw(Subject):
    """Raw files: any reader is independent."""

    def __init__(self, images: ImageFormat) -> None:
        self.images = images

    def write(self, chain: Sequence[ImageRef], offset: int, length: int, byte: int) -> None:
        descriptor = os.open(chain[0].path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, bytes([byte]) * length, offset)
        finally:
            os.close(descriptor)

    def content(self, chain: Sequence[ImageRef]) -> bytes:
        return chain[0].path.read_bytes()


class Qcow2(CowSubject):
    """QCOW2: qemu writes and reads."""

    def __init__(self, images: CowUtil) -> None:
        self.images = images

    def write(self, chain: Sequence[ImageRef], offset: int, length: int, byte: int) -> None:
        how = f"-P {byte}" if byte else "-z -u"
        qemu_io(chain, f"write {how} {offset} {length}")

    def content(self, chain: Sequence[ImageRef]) -> bytes:
        data = qemu_content(chain)
        assert reader_content(self.images, chain) == data
        return data


class Vhd(CowSubject):
    """VHD: our writer; qemu reads what has no parent, and our chain reader the rest."""

    def __init__(self, images: CowUtil) -> None:
        self.images = images

    def write(self, chain: Sequence[ImageRef], offset: int, length: int, byte: int) -> None:
        from sm.cowutil.vhd.block_file import Access, open_file
        from sm.cowutil.vhd.writer import ImageWriter

        file = open_file(chain[0].path, Access.WRITE)
        try:
            writer = ImageWriter(file)
            writer.write(offset, memoryview(bytes([byte]) * length))
            writer.commit()
        finally:
            file.close()

    def content(self, chain: Sequence[ImageRef]) -> bytes:
        data = reader_content(self.images, chain)
        if len(chain) == 1:
            assert qemu_content(chain) == data
        return data


class Toy(CowSubject):
    """The toy format: its dictionary is read without its code."""

    def __init__(self) -> None:
        self.images: ToyFormat = ToyFormat({})

    def write(self, chain: Sequence[ImageRef], offset: int, length: int, byte: int) -> None:
        self.images.write(chain[0].path, offset, bytes([byte]) * length)

    def content(self, chain: Sequence[ImageRef]) -> bytes:
        disk = bytearray(self.images.images[chain[0].path].virtual_size)
        for member in reversed(chain):
            for number, data in self.images.images[member.path].sectors.items():
                disk[number * 512 : (number + 1) * 512] = data
        assert reader_content(self.images, chain) == disk
        return bytes(disk)

    def store(self, image: ImageRef, stream: bytes) -> None:
        self.images.load(image.path, stream)

    def fingerprint(self, image: ImageRef) -> object:
        return self.images.images[image.path]

    def freeze(self, image: ImageRef) -> None:
        """Images are immutable values already."""


def make(name: str) -> Subject:
    """The subject for a format."""
    if name == "raw":
        from sm.cowutil.raw import RawFormat

        return Raw(RawFormat(run))
    return make_cow(name)


def make_cow(name: str) -> CowSubject:
    """The subject for a copy-on-write format."""
    if name == "toy":
        return Toy()
    if name == "qcow2":
        from sm.cowutil.qcow2.util import Qcow2Util

        return Qcow2(Qcow2Util(run))
    from sm.cowutil.vhd.util import VhdUtil

    return Vhd(VhdUtil(run))
