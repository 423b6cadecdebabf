"""Other people's readers, each behind the same few questions.

qemu-img and qemu-io know QCOW2 with its chains, and VHDs without a parent. libvhdi knows VHD with
its chains. dissect.hypervisor knows QCOW2 with its chains, and VHDs without a parent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pyvhdi
from dissect.hypervisor.disk.qcow2 import QCow2
from dissect.hypervisor.disk.vhd import VHD

from sm.cowutil.base import ImageRef
from sm.cowutil.chain import ChainReader
from sm.cowutil.extents import Extents
from sm.cowutil.registry import Formats
from sm.process import run
from tests.cowutil.contract.subjects import described, tool
from tests.cowutil.qcow2.images import alone

DIFFERENCING = 4
"""Type of a VHD with a parent, in the footer and for libvhdi."""


def ours(chain: Sequence[ImageRef]) -> bytes:
    """The disk that a chain of any formats shows to our own reader."""
    formats = Formats(run)
    with ExitStack() as stack:
        layers = [
            stack.enter_context(formats.get(image.format).open_layer(image.path)) for image in chain
        ]
        return ChainReader(layers, layers[0].virtual_size).pread(0, layers[0].virtual_size)


def qemu_map(path: Path) -> tuple[int, Extents, Extents]:
    """Virtual size, the bytes that one QCOW2 image holds itself, and those of them that are zero.

    Zero is also data that lies in a hole of the file.
    """
    entries = json.loads(tool("qemu-img", "map", "--output=json", alone(path)))
    present = [entry for entry in entries if entry["present"]]
    held = Extents.of((each["start"], each["start"] + each["length"]) for each in present)
    zero = Extents.of(
        (each["start"], each["start"] + each["length"]) for each in present if each["zero"]
    )
    return entries[-1]["start"] + entries[-1]["length"], held, zero


def qemu_size(image: ImageRef) -> int:
    """The virtual size that qemu-img tells when it is left to its own rules."""
    driver = {"vhd": "vpc"}.get(image.format, image.format)
    found = json.loads(tool("qemu-img", "info", "-f", driver, "--output=json", str(image.path)))
    return int(found["virtual-size"])


def qemu_io_agrees(chain: Sequence[ImageRef], ranges: Sequence[tuple[int, int, int]]) -> str:
    """What qemu-io says to reading (offset, length, byte value): empty when all are as given."""
    if not ranges:
        return ""
    commands = [f"read -P {byte} {offset} {length}" for offset, length, byte in ranges]
    given = [part for command in commands for part in ("-c", command)]
    said = tool("qemu-io", "-r", *given, described(chain))
    return "" if said.count("bytes at offset") == len(ranges) and "failed" not in said else said


def dissect_is_wrong(chain: Sequence[ImageRef]) -> bool:
    """Whether dissect.hypervisor is known to read this QCOW2 chain wrongly.

    `test_disagreements` shows each reason: version 2, extended L2 entries, and a parent smaller
    than its child.
    """
    sizes = {Formats(run).get(image.format).info(image.path).virtual_size for image in chain}
    headers = [image.path.read_bytes()[:104] for image in chain if image.format == "qcow2"]
    return len(sizes) > 1 or any(raw[7] == 2 or raw[79] & 0x10 for raw in headers)


def dissect_qcow2(path: Path) -> bytes:
    """The disk of a QCOW2 image; parents are found by their names beside it."""
    with ExitStack() as stack:
        image = QCow2(path)
        stack.callback(image.fh.close)
        return bytes(image.open().read(image.size))


def dissect_vhd(path: Path) -> bytes:
    """The disk of a VHD without a parent."""
    with path.open("rb") as file:
        image = VHD(file)
        return bytes(image.read(image.size))


def libvhdi(chain: Sequence[Path]) -> bytes:
    """The disk that a chain of VHDs shows, uppermost first."""
    with ExitStack() as stack:
        files = []
        for path in chain:
            file = pyvhdi.file()
            file.open(str(path))
            stack.callback(file.close)
            files.append(file)
        for child, parent in pairwise(files):
            child.set_parent(parent)
        return bytes(files[0].read_buffer_at_offset(files[0].media_size, 0))


def libvhdi_is_wrong(chain: Sequence[ImageRef]) -> bool:
    """Whether libvhdi is known to read this VHD chain wrongly.

    `test_disagreements` shows each reason: a disk that grew, a parent smaller than its child, a
    child that holds single sectors of 4 KiB, and one with a hole across the border of two blocks.
    """
    sizes = set()
    wrong = False
    for image in chain:
        footer = image.path.read_bytes()[-512:]
        sizes |= {footer[40:48], footer[48:56]}
        wrong |= footer[63] == DIFFERENCING and _hard_for_libvhdi(image.path)
    return len(sizes) > 1 or wrong


def _hard_for_libvhdi(path: Path) -> bool:
    images = Formats(run).cow("vhd")
    held, info = images.allocated_extents(path), images.info(path)
    if ((held.starts | held.ends) % 4096).any():
        return True
    sectors = info.block_size // 512
    count = -(-info.virtual_size // info.block_size)
    bits = held.to_bitmap(512, count * info.block_size).reshape(count, sectors)
    used = bits.max(axis=1)
    held_at_border = bits[:-1, -1] | bits[1:, 0]
    return bool((~held_at_border & used[:-1] & used[1:]).any())


def libvhdi_facts(path: Path) -> tuple[int, int, str | None]:
    """Virtual size, disk type and the parent's name as libvhdi tells them."""
    file = pyvhdi.file()
    file.open(str(path))
    try:
        return file.media_size, file.disk_type, file.parent_filename
    finally:
        file.close()
