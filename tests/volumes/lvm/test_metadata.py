"""The metadata of a volume group on its device: as LVM 2.03.16 left them, and damaged.

`recorded.vg` is the text of a group on two devices; what is expected of it is what `lvs`, `vgs`
and `pvs` said of that group.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sm.volumes.lvm import metadata
from sm.volumes.lvm.metadata import NotLvm, Read, Segment, VolumeGroup

MIB = 1 << 20
TEXT = Path(__file__).with_name("recorded.vg").read_bytes() + b"\0"
LABEL = bytes.fromhex(
    "4c4142454c4f4e45010000000000000087eef755200000004c564d322030303154455a483474576a7443374d"
    "63463163657a304c4d786b623155356668765379000000080000000000001000000000000000000000000000"
    "00000000000000000000000000000000001000000000000000f00f0000000000000000000000000000000000"
    "000000000200000001"
).ljust(512, b"\0")
HEADER = bytes.fromhex(
    "4c234b35204c564d3220785b35412572304e2a3e01000000001000000000000000f00f0000000000004e0000"
    "00000000ad0d000000000000413d878d"
).ljust(512, b"\0")
AREA, AREA_SIZE, OFFSET = 4096, 1044480, 19968
FIRST = "TEZH4t-WjtC-7McF-1cez-0LMx-kb1U-5fhvSy"
SECOND = "YX9NR2-N2yS-E8zp-fcmj-Zmrx-KBSN-UPOJ0Y"


def device(label: bytes = LABEL, header: bytes = HEADER, *, offset: int = OFFSET) -> Read:
    """The beginning of a device with a label, the header of an area, and the text in it."""
    front = bytearray(MIB)
    front[512 : 512 + len(label)] = label
    front[AREA : AREA + 512] = header
    straight = min(len(TEXT), AREA_SIZE - offset)
    front[AREA + offset : AREA + offset + straight] = TEXT[:straight]
    front[AREA + 512 : AREA + 512 + len(TEXT) - straight] = TEXT[straight:]
    return lambda start, length: bytes(front[start : start + length])


def group(read: Read) -> VolumeGroup:
    """The group that a device belongs to."""
    place = metadata.read_place(read, metadata.read_label(read))
    assert place is not None
    return metadata.read_group(read, place)


def checksum(data: bytes) -> int:
    """As LVM makes it, bit by bit."""
    value = 0xF597A6CF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value


def with_place(offset: int, size: int, flags: int = 0) -> bytes:
    """The header of the area with another place for the text."""
    place = struct.pack("<QQII", offset, size, checksum(TEXT), flags)
    rest = HEADER[4:40] + place + HEADER[64:]
    return struct.pack("<I", checksum(rest)) + rest


def test_a_group_is_what_lvm_says_of_it() -> None:
    found = group(device())
    assert (found.name, found.id) == ("recorded", "XQ2sVD-E1k1-mO8g-3blG-FEEa-QunD-cGjX0T")
    assert (found.seqno, found.extent_size, found.tags) == (11, 4194304, {"shared"})
    assert found.total == 260046848
    assert set(found.devices) == {FIRST, SECOND}
    told = {
        "QCOW2-2": ("IrBWqu-dRD2-nPHt-tYdk-S9vw-dFga-ezMFhR", 20971520),
        "VHD-11111111-aaaa": ("SDudDK-Ak6q-3XGC-KauH-yVG2-2RbF-Bi90RV", 71303168),
        "mirrored": ("uTLrsX-601l-Gyef-KLkl-8QTz-aXsO-eJhd1c", 4194304),
        "mirrored_rimage_0": ("VyhQus-GD0F-h1g7-go53-wSNM-HB7T-18V5BA", 4194304),
        "mirrored_rimage_1": ("Xc8Lqc-IqV0-Qq1Q-vohv-bfOJ-KDh7-YssM5C", 4194304),
        "mirrored_rmeta_0": ("rnaDoV-zKZk-pjRE-SXS0-t2XO-3YIB-74juud", 4194304),
        "mirrored_rmeta_1": ("bmysCZ-hoHs-92x0-Z17T-oh6j-En2s-f5MAQS", 4194304),
        "striped": ("a1JrwE-ss9N-cqib-uD7e-Gpgj-Rb0z-BDePfX", 8388608),
    }
    assert {name: (each.id, each.size) for name, each in found.volumes.items()} == told
    assert not found.volumes["QCOW2-2"].writable
    disk = found.volumes["VHD-11111111-aaaa"]
    assert disk.writable
    assert disk.tags == {"hidden", "a+b.c-d_e/f=g!h:i#j&k"}


def test_where_volumes_lie() -> None:
    """Pieces in a row have places on the devices; what is made otherwise has none."""
    volumes = group(device()).volumes
    extent, data = 4 * MIB, MIB
    assert volumes["VHD-11111111-aaaa"].segments == (
        Segment(0, 4 * extent, FIRST, data),
        Segment(4 * extent, 13 * extent, FIRST, data + 9 * extent),
    )
    assert volumes["mirrored_rmeta_1"].segments == (Segment(0, extent, SECOND, data + extent),)
    assert volumes["striped"].segments is None
    assert volumes["mirrored"].segments is None


def test_the_area_is_a_ring() -> None:
    """The text begins anywhere, and goes on behind the header."""
    expected = group(device())
    for before_the_end in (1, 512, len(TEXT) - 1, len(TEXT)):
        offset = AREA_SIZE - before_the_end
        assert group(device(header=with_place(offset, len(TEXT)), offset=offset)) == expected


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        *[(1, 100), (511, 100), (AREA_SIZE, 100), (1 << 63, 100), (OFFSET, 0), (512, AREA_SIZE)],
        *[(512, 1 << 63), (512, AREA_SIZE - 511), (OFFSET, len(TEXT) - 1), (OFFSET + 1, len(TEXT))],
    ],
)
def test_a_place_outside_of_the_area_is_refused(offset: int, size: int) -> None:
    with pytest.raises(NotLvm):
        group(device(header=with_place(offset, size)))


def test_an_area_that_lvm_ignores_has_no_text() -> None:
    read = device(header=with_place(OFFSET, len(TEXT), flags=1))
    assert metadata.read_place(read, metadata.read_label(read)) is None


@pytest.mark.parametrize("part", ["label", "header"])
def test_any_damage_is_noticed(part: str) -> None:
    """Each byte of the two sectors, and of the text a sample."""
    whole = {"label": LABEL, "header": HEADER}
    for place in range(512):
        damaged = bytearray(whole[part])
        damaged[place] ^= 1 << place % 8
        with pytest.raises(NotLvm):
            group(device(**{**whole, part: bytes(damaged)}))


def test_any_damage_of_the_text_is_noticed() -> None:
    read = device()
    for place in range(0, len(TEXT), 7):

        def damaged(start: int, length: int, at: int = AREA + OFFSET + place) -> bytes:
            found = bytearray(read(start, length))
            if start <= at < start + length:
                found[at - start] ^= 1
            return bytes(found)

        with pytest.raises(NotLvm):
            group(damaged)
