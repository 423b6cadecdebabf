"""Images as other programs lay them out, built here from the specification alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MIB = 1 << 20


def checksummed(raw: bytes, at: int) -> bytes:
    """`raw` with the checksum of the specification at byte `at`."""
    blank = raw[:at] + bytes(4) + raw[at + 4 :]
    return raw[:at] + struct.pack(">I", 0xFFFFFFFF - sum(blank)) + raw[at + 4 :]


def footer(
    kind: int,
    size: int,
    *,
    data_offset: int = 512,
    creator: bytes = b"win ",
    version: int = 0x60001,
    uuid: bytes = b"0123456789abcdef",
    hidden: int = 0,
) -> bytes:
    """A footer with its checksum."""
    raw = struct.pack(
        ">8sIIQI4sI4sQQIII16sBB426x",
        b"conectix", 2, 0x10000, data_offset, 1000, creator, version, b"Wi2k",
        size, size, 0, kind, 0, uuid, 0, hidden,
    )  # fmt: skip
    return checksummed(raw, 64)


@dataclass
class Foreign:
    """A sparse image with everything at places of the test's choice.

    `blocks`: position in bytes (of the bitmap) by block number, each with (bitmap, data).
    `locators`: (code, text as bytes, offset, space).
    """

    size: int = 4 * MIB
    block_size: int = 2 * MIB
    header_at: int = 512
    table_at: int = 0x2000
    entries: int | None = None
    parent: bytes = bytes(16)
    name: str = ""
    creator: bytes = b"win "
    version: int = 0x60001
    locators: list[tuple[bytes, bytes, int, int]] = field(default_factory=list)
    blocks: dict[int, tuple[int, bytes, bytes]] = field(default_factory=dict)
    padding: bytes = b"\xff"
    extra: dict[int, bytes] = field(default_factory=dict)

    def header(self) -> bytes:
        """The sparse header."""
        count = -(-self.size // self.block_size) if self.entries is None else self.entries
        raw = struct.pack(
            ">8sQQIIII16sII512s",
            b"cxsparse", 2**64 - 1, self.table_at, 0x10000, count, self.block_size,
            0, self.parent, 5 if self.locators else 0, 0, self.name.encode("utf-16-be"),
        )  # fmt: skip
        for code, text, at, space in self.locators:
            raw += struct.pack(">4sIIIQ", code, space, len(text), 0, at)
        return checksummed(raw.ljust(1024, b"\0"), 36)

    def footer(self) -> bytes:
        """Either footer."""
        kind = 4 if self.locators else 3
        return footer(
            kind,
            self.size,
            data_offset=self.header_at,
            creator=self.creator,
            version=self.version,
        )

    def build(self) -> bytearray:
        """The whole file."""
        count = -(-self.size // self.block_size)
        table = [0xFFFFFFFF] * count
        pieces = dict(self.extra)
        for block, (at, bitmap, data) in self.blocks.items():
            table[block] = at // 512
            pieces[at] = bitmap + data
        raw = struct.pack(f">{count}I", *table)
        pieces[self.table_at] = raw + self.padding * (-len(raw) % 512)
        pieces[self.header_at] = self.header()
        pieces.update({at: text for _, text, at, _ in self.locators})
        end = max(at + len(piece) for at, piece in pieces.items())
        image = bytearray(-(-end // 512) * 512)
        pieces[0] = self.footer()
        for at, piece in pieces.items():
            image[at : at + len(piece)] = piece
        return image + self.footer()
