"""Hostile VHDs: every field at its edges, tables, links, overlaps, and files that end too early.

The structures come from `Foreign`, which was written from the specification alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.cowutil.vhd.vhd_foreign import MIB, Foreign, checksummed, footer
from tests.hostile.case import Hostile, Stage

CORRUPT = "ImageCorrupt"
UNSUPPORTED = "ImageUnsupported"
UNSAFE = "ImageUnsafe"
STRANGE = "ImageNotRecognised"
LINK, TABLES, CHECK = Stage.LINK, Stage.TABLES, Stage.CHECK

BLOCK = 64 << 10
STRIDE = 512 + BLOCK
SIZE = 16 * BLOCK
HEADER = 512
LOCATORS = (0x1000, 0x1200)
TABLE = 0x2000
BATMAP = 0x2200
MAP = 0x2400
FIRST = 0x8000
NO_OFFSET = 2**64 - 1
TAIL = FIRST + 3 * 0x11000 - 0x11000 + STRIDE
"""Where the footer at the end is."""


def utf16(text: str) -> bytes:
    """Text as Windows spells it in a locator."""
    return text.encode("utf-16-le")


GOOD_LOCATORS = [
    (b"W2ru", utf16(".\\parent.vhd"), LOCATORS[0], 512),
    (b"MacX", b"file://./parent.vhd", LOCATORS[1], 512),
]


def sound(**changes: object) -> bytearray:
    """A child with three blocks and a batmap; `changes` are fields of `Foreign`."""
    batmap = b"tdbatmap" + struct.pack(">QIII", MAP, 1, 0x10002, 0xFFFFFFFF)
    parts: dict[str, object] = {
        "size": SIZE,
        "block_size": BLOCK,
        "locators": GOOD_LOCATORS,
        "name": "parent.vhd",
        "parent": b"p" * 16,
        "creator": b"tap\0",
        "version": 0x10003,
        "blocks": {
            number: (FIRST + index * 0x11000, b"\xf0" * 512, bytes([number]) * BLOCK)
            for index, number in enumerate((3, 7, 9))
        },
        "extra": {BATMAP: batmap, MAP: bytes(512)},
    }
    return Foreign(**{**parts, **changes}).build()  # type: ignore[arg-type]


def sealed(image: bytearray, *, header: bool = True, tail: bool = True) -> bytearray:
    """The same with checksums that fit, and the footer at the end like its copy."""
    if header:
        image[512:1536] = checksummed(bytes(image[512:1536]), 36)
    image[:512] = checksummed(bytes(image[:512]), 64)
    if tail:
        image[-512:] = image[:512]
    return image


def edited(*edits: tuple[int, bytes]) -> bytearray:
    """The sound image with some bytes changed and all checksums made to fit."""
    image = sound()
    for at, data in edits:
        image[at : at + len(data)] = data
    return sealed(image)


def refused(
    name: str,
    image: bytearray | bytes,
    error: str,
    says: str,
    offset: int | None = None,
    stage: Stage = Stage.HEADER,
    length: int | None = None,
) -> Hostile:
    """A hostile image with these bytes, cut at `length` or a hole up to there."""
    size = len(image) if length is None else length
    return Hostile(f"vhd-{name}", "vhd", size, {0: bytes(image)}, error, says, offset, stage)


def u32(value: int) -> bytes:
    """Four bytes, big-endian."""
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    """Eight bytes, big-endian."""
    return struct.pack(">Q", value)


FOOTER_EDGES: tuple[tuple[str, int, str, str, tuple[bytes, ...]], ...] = (
    ("cookie", 0, STRANGE, "footer", (bytes(8), b"conectiX", b"cxsparse", b"QFI\xfb\0\0\0\3")),
    ("poison", 0, UNSUPPORTED, "v_poison", (b"v_poison",)),
    ("features", 8, CORRUPT, "footer features", (u32(0), u32(1), u32(0xFFFFFFFD))),
    ("version", 12, CORRUPT, "footer version", (u32(0), u32(0x20000), u32(0xFFFFFFFF))),
    (
        "data-offset", 16, CORRUPT, "footer data offset",
        (u64(0), u64(1), u64(511), u64(1024 + 1), u64(1 << 40), u64(1 << 63), u64(NO_OFFSET)),
    ),
    (
        "size", 48, CORRUPT, "footer current size",
        (u64(0), u64(1), u64(513), u64((2040 << 30) + 512), u64(1 << 63), u64(2**64 - 512)),
    ),
    ("type", 60, CORRUPT, "footer type", (u32(0), u32(1), u32(5), u32(6), u32(0xFFFFFFFF))),
    ("hidden", 85, CORRUPT, "footer hidden", (b"\2", b"\xff")),
)  # fmt: skip

HEADER_EDGES: tuple[tuple[str, int, str, str, tuple[bytes, ...]], ...] = (
    ("cookie", 0, CORRUPT, "header cookie", (bytes(8), b"conectix")),
    (
        "table-offset", 16, CORRUPT, "header table offset",
        (u64(0), u64(256), u64(0x2001), u64(512), u64(1024), u64(1 << 40), u64(1 << 63),
         u64(2**64 - 512)),
    ),
    ("version", 24, CORRUPT, "header version", (u32(0), u32(0x20000), u32(0xFFFFFFFF))),
    (
        "entries", 28, CORRUPT, "header table",
        (u32(0), u32(15), u32(0x7FFFFFFF), u32(0xFFFFFFFF)),
    ),
    (
        "block-size", 32, CORRUPT, "header block size",
        (u32(0), u32(3), u32(0x30000), u32(2**32 - 1)),
    ),
    ("block-size", 32, UNSUPPORTED, "blocks of", (u32(1), u32(512), u32(1 << 22), u32(1 << 31))),
)  # fmt: skip

NAMES = {
    "up": ("W2ru", "..\\secret.vhd"),
    "below": ("W2ru", ".\\sub\\x.vhd"),
    "drive": ("W2ku", "C:\\x.vhd"),
    "share": ("W2ku", "\\\\server\\share\\x.vhd"),
    "url": ("MacX", "file:///dev/sda"),
    "host": ("MacX", "file://host/x.vhd"),
    "path": ("MacX", "/etc/shadow"),
    "dots": ("W2ru", ".."),
    "dot": ("W2ru", "."),
    "nothing": ("W2ru", ".\\"),
    "stream": ("W2ru", "x.vhd:stream"),
    "http": ("MacX", "http://169.254.169.254/x"),
    "control": ("W2ru", "a\nb"),
    "zero": ("MacX", "file://./a\0b"),
    "json": ("MacX", 'json:{"driver":"file"}'),
}
"""Spellings of a parent that is not a file in the same folder."""


def cases() -> Iterator[Hostile]:
    """All of them."""
    for name, at, error, says, values in FOOTER_EDGES:
        for value in values:
            offset = at if error == CORRUPT else None
            yield refused(f"footer-{name}-{value.hex()}", edited((at, value)), error, says, offset)
    for name, at, error, says, values in HEADER_EDGES:
        for value in values:
            offset = HEADER + at if error == CORRUPT else None
            if name == "entries" and value[0]:
                offset = HEADER + 28
            image = edited((HEADER + at, value))
            yield refused(f"header-{name}-{value.hex()}", image, error, says, offset)
    yield from _footers()
    yield from _links()
    yield from _batmap()
    yield from _entries()
    yield from _overlaps()
    yield from _judged()
    yield from _truncations()


def _footers() -> Iterator[Hostile]:
    """Checksums, and footers that contradict each other."""
    image = sound()
    image[64] ^= 1
    image[-512:] = image[:512]
    yield refused("footer-checksum", image, CORRUPT, "footer checksum", 64)
    image = sound()
    image[HEADER + 36] ^= 1
    yield refused("header-checksum", image, CORRUPT, "header checksum", HEADER + 36)
    image = sound()
    image[-512:] = footer(2, SIZE, data_offset=NO_OFFSET)
    at = len(image) - 512
    yield refused("fixed-at-the-end", image, CORRUPT, "footer type", at + 60)
    image = sound()
    image[:512] = b"QFI\xfb\0\0\0\3".ljust(512, b"\0")
    yield refused("qcow2-in-front", image, CORRUPT, "footer copy", 0)
    for size in (0x10000 + 512, 1 << 40):
        image = bytearray(0x10000) + footer(2, size, data_offset=NO_OFFSET)
        says = "footer current size"
        yield refused(f"fixed-{size}", image, CORRUPT, says, 0x10000 + 48)


def _links() -> Iterator[Hostile]:
    """Locators of a differencing image; field 576 of the header, 24 bytes each."""
    at = HEADER + 576
    for name, (code, text) in NAMES.items():
        encoded = text.encode() if code == "MacX" else utf16(text)
        image = sound(locators=[(code.encode(), encoded, LOCATORS[0], 512)])
        yield refused(f"parent-{name}", image, UNSAFE, repr(text), None, LINK)
    fine = (b"W2ru", utf16(".\\parent.vhd"), LOCATORS[0], 512)
    image = sound(locators=[fine, (b"MacX", b"file://./../x.vhd", LOCATORS[1], 512)])
    yield refused("parent-second-locator", image, UNSAFE, "../x.vhd", None, LINK)
    for name, edit, says, offset in (
        ("empty", (at + 8, u32(0)), "parent locator 0", LOCATORS[0]),
        ("codes", (at, bytes(48)), "header locators", at),
        ("unknown", (at, b"Evil" + bytes(20) + b"Evil"), "header locators", at),
        ("surrogate", (LOCATORS[0], b"\x00\xd8"), "parent locator 0", LOCATORS[0]),
        ("not-utf8", (LOCATORS[1], b"\xff\xff"), "parent locator 1", LOCATORS[1]),
    ):
        yield refused(f"locator-{name}", edited(edit), CORRUPT, says, offset, LINK)
    for name, edit, says, offset in (
        ("space", (at + 4, u32(513)), "header locator 0 space", at + 4),
        ("length", (at + 8, u32(513)), "header locator 0 length", at + 8),
    ):
        yield refused(f"locator-{name}", edited(edit), CORRUPT, says, offset)
    long = (b"W2ru", utf16(".\\" + "x" * 2047), 0x2600, 8192)
    image = sound(locators=[long, GOOD_LOCATORS[1]])
    yield refused("locator-long", image, CORRUPT, "parent locator 0", 0x2600, LINK)
    for name, offset in (("on-footer", 0), ("beyond", 1 << 40), ("far-beyond", NO_OFFSET)):
        # Whoever reads the link names where it should be, whoever reads blocks the field.
        image = edited((at + 16, u64(offset)))
        yield refused(f"locator-{name}", image, CORRUPT, "locator 0")
        # With a code that nobody reads, it is still in the way of blocks.
        image = edited((at, b"Wi2r"), (at + 16, u64(offset)))
        says = "header locator 0 offset"
        yield refused(f"locator-unread-{name}", image, CORRUPT, says, at + 16, TABLES)
    image = sound(
        locators=[fine, (b"MacX", b"file://./other.vhd", LOCATORS[1], 512)], name="third.vhd"
    )
    yield refused("locators-disagree", image, CORRUPT, "different parents", at, LINK)


def _batmap() -> Iterator[Hostile]:
    for name, place, sectors in (
        ("zero", 0, 1),
        ("unaligned", MAP + 1, 1),
        ("beyond", 1 << 40, 1),
        ("far-beyond", NO_OFFSET - 511, 1),
        ("huge", MAP, 0xFFFFFFFF),
        ("too-long", MAP, 8193),
    ):
        image = edited((BATMAP + 8, u64(place) + u32(sectors)))
        length = 16 * MIB if name == "too-long" else None
        if length:
            image = image[:-512] + bytes(length - len(image)) + image[-512:]
        yield refused(f"batmap-{name}", image, CORRUPT, "batmap", BATMAP + 8, TABLES)


def _entries() -> Iterator[Hostile]:
    """Places of blocks, in sectors."""
    for name, block, sector in (
        ("footer", 0, 0),
        ("header", 0, 1),
        ("locator", 0, 8),
        ("table", 0, 16),
        ("batmap", 0, 18),
        ("end", 0, (len(sound()) - 512) // 512 + 1),
        ("beyond", 15, 0x7FFFFFFF),
        ("almost-unused", 0, 0xFFFFFFFE),
        ("same", 10, FIRST // 512),
        ("overlap", 4, FIRST // 512 + 1),
        ("overlap-end", 4, (FIRST + STRIDE) // 512 - 1),
    ):
        image = edited((TABLE + 4 * block, u32(sector)))
        says = "table entry"
        # Of two blocks on each other the later one in the file is named.
        blamed = {"same": 10, "overlap": 4, "overlap-end": 4}.get(name, block)
        yield refused(f"entry-{name}", image, CORRUPT, says, TABLE + 4 * blamed, TABLES)
    image = edited((TABLE + 4 * 16, u32(FIRST // 512)), (HEADER + 28, u32(32)))
    yield refused("entry-spare", image, CORRUPT, "behind the virtual size", None, CHECK)


def _overlaps() -> Iterator[Hostile]:
    """Structures on each other: whoever writes one would destroy the other."""
    at = HEADER + 576 + 16
    for name, place in (("header", HEADER), ("table", TABLE), ("header-of-batmap", BATMAP)):
        image = edited((BATMAP + 8, u64(place)))
        yield refused(f"batmap-on-{name}", image, CORRUPT, "batmap offset", BATMAP + 8, TABLES)
    for name, place in (("footer", 256), ("header", 1024), ("table", TABLE), ("batmap", MAP)):
        image = edited((at - 16, b"Wi2r"), (at, u64(place)))
        says = "header locator 0 offset"
        yield refused(f"locator-over-{name}", image, CORRUPT, says, at, TABLES)


def _judged() -> Iterator[Hostile]:
    """What only the check complains of."""
    for name, edit, says in (
        ("features", (8, u32(0x80000002)), "footer features"),
        ("future", (24, u32(0xFFFFFFFF)), "footer time"),
        ("creator", (32, u32(0x10004)), "creator version"),
        ("geometry", (56, u32(0xFFFFFFFF)), "geometry"),
        ("identity", (68, bytes(16)), "unique id"),
        ("saved-state", (84, b"\2"), "saved state"),
        ("reserved", (500, b"x"), "footer reserved"),
        ("header-next", (HEADER + 8, u64(512)), "header data offset"),
        ("header-reserved", (HEADER + 1000, b"x"), "header reserved"),
        ("locator-reserved", (HEADER + 576 + 12, u32(1)), "parent locator 0 has bytes"),
        ("locator-unused", (HEADER + 576 + 7 * 24 + 8, u32(1)), "parent locator 7 has bytes"),
        ("parent-time", (HEADER + 56, u32(0xFFFFFFFF)), "parent time"),
        ("batmap-missing", (BATMAP, bytes(8)), "batmap is missing"),
        ("batmap-checksum", (MAP, b"\xff"), "batmap checksum"),
        ("batmap-sum", (BATMAP + 24, u32(0x1234)), "batmap checksum"),
    ):
        yield refused(f"check-{name}", edited(edit), CORRUPT, says, None, CHECK)


def _truncations() -> Iterator[Hostile]:
    image = sound()
    for length in (0, 1, 8, 510):
        yield refused(f"cut-{length}", image, STRANGE, "", None, length=length)
    for length in (512, 1024, 1535):
        says = "footer data offset"
        yield refused(f"cut-{length}", image, CORRUPT, says, 16, length=length)
    for length in (1536, 0x1000):
        says = "header table offset"
        yield refused(f"cut-{length}", image, CORRUPT, says, HEADER + 16, length=length)
    yield refused("cut-in-table", image, CORRUPT, "header table offset", 528, length=TABLE + 8)
    yield refused("cut-batmap", image, CORRUPT, "batmap", BATMAP + 8, TABLES, length=MAP)
    says = "table entry"
    yield refused("cut-blocks", image, CORRUPT, says, TABLE + 36, TABLES, length=FIRST)
    last = FIRST + 2 * 0x11000
    yield refused("cut-last", image, CORRUPT, says, TABLE + 36, TABLES, length=last + 511)
    only_end = bytes(512) + bytes(image[512:])
    for length in (len(image) - 512, len(image) - 1024):
        yield refused(
            f"cut-both-footers-{length}", only_end, STRANGE, "footer", None, length=length
        )
