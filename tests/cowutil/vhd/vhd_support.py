"""Helpers of the VHD tests: files in memory, guest writes, and readers that are not ours."""

from __future__ import annotations

import ctypes
import random
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from sm.cowutil.base import ImageRef, Layer
from sm.cowutil.chain import ChainReader
from sm.cowutil.vhd.block_file import Access, BlockFile, Opener, open_file
from sm.cowutil.vhd.disk import VhdDisk
from sm.cowutil.vhd.layer import VhdLayer
from sm.cowutil.vhd.util import VhdUtil
from sm.process import run

MIB = 1 << 20


class MemoryFile:
    """A `BlockFile` over a bytearray that outlives it."""

    def __init__(
        self, content: bytearray, path: Path = Path("memory"), resizable: bool = True
    ) -> None:
        self.content = content
        self.path = path
        self.resizable = resizable

    def size(self) -> int:
        return len(self.content)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        data = memoryview(self.content)[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        end = offset + len(data)
        if end > len(self.content):
            assert self.resizable, "a block device was written beyond its end"
            self.content.extend(bytes(end - len(self.content)))
        self.content[offset:end] = data

    def flush(self) -> None:
        pass

    def truncate(self, size: int) -> None:
        assert self.resizable
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))

    def discard(self, offset: int, length: int) -> None:
        if self.resizable:
            end = min(offset + length, len(self.content))
            self.content[offset:end] = bytes(end - offset)

    def close(self) -> None:
        pass


def util(opener: Opener = open_file) -> VhdUtil:
    """The format under test."""
    return VhdUtil(run, opener)


def ref(path: Path) -> ImageRef:
    """A VHD as a chain member."""
    return ImageRef(path, "vhd")


def open_disk(chain: Sequence[Path], opener: Opener = open_file) -> VhdDisk:
    """A chain for guest reads and writes, leaf first."""
    leaf = opener(chain[0], Access.WRITE)
    parents: list[Layer] = [VhdLayer(opener(path, Access.READ)) for path in chain[1:]]
    return VhdDisk(leaf, parents)


def content(chain: Sequence[Path], opener: Opener = open_file) -> bytes:
    """The disk that a chain shows, leaf first, read without writing."""
    with ExitStack() as stack:
        layers = [stack.enter_context(VhdLayer(opener(path, Access.READ))) for path in chain]
        size = layers[0].virtual_size
        return ChainReader(layers, size).pread(0, size)


def memory_content(*files: BlockFile) -> bytes:
    """The same for files that are open already."""
    layers = [VhdLayer(file) for file in files]
    return ChainReader(layers, layers[0].virtual_size).pread(0, layers[0].virtual_size)


def qemu_content(path: Path, scratch: Path | None = None) -> bytes:
    """What qemu reads from an image without parent; `scratch` is a file to use for it."""
    out = scratch or path.with_name(path.name + ".as-raw")
    command = ["qemu-img", "convert", "-f", "vpc", "-O", "raw", str(path), str(out)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        return out.read_bytes()
    finally:
        out.unlink()


def fill(disk: VhdDisk, model: bytearray, seed: int, count: int, unit: int = 512) -> None:
    """`count` random writes of whole `unit`s to the disk and to its model; then flush."""
    dice = random.Random(seed)
    for _ in range(count):
        length = dice.choice((1, 1, 2, 7, 8, 64, 700)) * unit
        offset = dice.randrange(0, (disk.virtual_size - length) // unit + 1) * unit
        data = dice.randbytes(length)
        disk.pwrite(offset, data)
        model[offset : offset + length] = data
    disk.flush()


class Libvhdi:
    """libvhdi, by somebody else from the specification alone, through its C interface."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libvhdi.so.1")

    def content(self, chain: Sequence[Path]) -> bytes:
        """The disk that a chain shows, leaf first."""
        handles = [self._open(path) for path in chain]
        try:
            for child, parent in pairwise(handles):
                self._call("set_parent_file", child, parent)
            size = ctypes.c_uint64()
            self._call("get_media_size", handles[0], ctypes.byref(size))
            data = ctypes.create_string_buffer(size.value)
            read = self._library.libvhdi_file_read_buffer_at_offset
            read.restype = ctypes.c_ssize_t
            read.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)
            done = 0
            while done < size.value:
                at = ctypes.addressof(data) + done
                count = read(handles[0], at, min(MIB, size.value - done), done)
                assert count > 0, f"libvhdi cannot read byte {done}"
                done += count
            return data.raw
        finally:
            for handle in handles:
                self._call("free", ctypes.byref(handle))

    def identifier(self, path: Path) -> bytes:
        """The unique id of an image, in the order of RFC 4122."""
        return self._identifier(path, "get_identifier")

    def parent_identifier(self, path: Path) -> bytes:
        """The unique id of its parent."""
        return self._identifier(path, "get_parent_identifier")

    def _identifier(self, path: Path, name: str) -> bytes:
        handle = self._open(path)
        try:
            data = ctypes.create_string_buffer(16)
            self._call(name, handle, data, ctypes.c_size_t(16))
            return data.raw
        finally:
            self._call("free", ctypes.byref(handle))

    def _open(self, path: Path) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._call("initialize", ctypes.byref(handle))
        self._call("open", handle, str(path).encode(), ctypes.c_int(1))
        return handle

    def _call(self, name: str, *arguments: object) -> None:
        function = getattr(self._library, f"libvhdi_file_{name}")
        function.restype = ctypes.c_int
        assert function(*arguments, None) == 1, f"libvhdi_file_{name} failed"
