"""Hostile QCOW2 headers: every field at its edges, extensions, and names that lead elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.hostile.case import Hostile, Stage
from tests.hostile.qcow2_parts import CLUSTER, FIELDS, MIB, SOUND_PARTS, Parts, extension

CORRUPT = "ImageCorrupt"
UNSUPPORTED = "ImageUnsupported"
UNSAFE = "ImageUnsafe"
STRANGE = "ImageNotRecognised"

BEYOND = 1 << 30
"""A cluster that is aligned, and far behind the end of the file."""

BACKING_FORMAT = 0xE2792ACA
FEATURE_NAMES = 0x6803F857

EDGES: tuple[tuple[str, str, str, tuple[int, ...]], ...] = (
    ("magic", STRANGE, "magic", (0, 0x514649FA, 0xFB494651, 0x636F6E65)),
    ("version", UNSUPPORTED, "version", (0, 1, 4, 0x300, 0xFFFFFFFF)),
    ("backing_offset", CORRUPT, "backing name offset", (1, 72, 103, CLUSTER + 8, 1 << 63)),
    ("cluster_bits", CORRUPT, "cluster bits", (0, 1, 8, 22, 31, 32, 64, 0xFFFFFFFF)),
    ("crypt", UNSUPPORTED, "encryption", (1, 2, 3, 0xFFFFFFFF)),
    ("l1_entries", CORRUPT, "L1 table size", (0, (4 << 20) + 1, 1 << 31, 0xFFFFFFFF)),
    ("l1_offset", CORRUPT, "L1 table offset", (0, 1, 512, BEYOND, 1 << 63, 2**64 - CLUSTER)),
    ("refcount_offset", CORRUPT, "refcount table offset", (0, 8, BEYOND, 1 << 63, 2**64 - 1)),
    ("refcount_clusters", CORRUPT, "refcount table size", (0, 2049, 1 << 31, 0xFFFFFFFF)),
    ("snapshot_count", CORRUPT, "snapshot count", (65537, 1 << 31, 0xFFFFFFFF)),
    ("refcount_order", CORRUPT, "refcount order", (7, 8, 64, 0xFFFFFFFF)),
    ("header_length", CORRUPT, "header length", (0, 72, 103, CLUSTER + 1, 0xFFFFFFFF)),
    ("incompatible", UNSUPPORTED, "an external data file", (1 << 2, 1 << 2 | 1 << 40)),
    ("incompatible", UNSUPPORTED, "incompatible feature bit 5", (1 << 5, 1 << 5 | 1 << 63)),
    ("incompatible", UNSUPPORTED, "incompatible feature bit 63", (1 << 63,)),
)
"""Field, class of the refusal, what it names, and the values that must be refused."""

NAMES = {
    "absolute": b"/etc/passwd",
    "device": b"/dev/sda",
    "parent-folder": b"../parent.qcow2",
    "inner-folder": b"a/../../b",
    "below": b"folder/parent.qcow2",
    "json": b'json:{"driver":"file","filename":"/etc/passwd"}',
    "json-driver": b'json:{"driver":"nbd","host":"10.0.0.1"}',
    "nbd": b"nbd://127.0.0.1:10809/x",
    "nbd-unix": b"nbd+unix:///x?socket=/run/socket",
    "file": b"file:/etc/passwd",
    "fat": b"fat:rw:/etc",
    "http": b"http://169.254.169.254/latest",
    "protocol-without-slash": b"rbd:pool",
    "host-device": b"host_device:sda",
    "nothing": b"",
    "dot": b".",
    "dots": b"..",
    "only-slash": b"/",
    "not-text": b"\xff\xfe\xfd",
    "zero-inside": b"a\0b",
    "newline": b"a\nb",
    "escape": b"\x1b[2J.qcow2",
}
"""Backing names that no image may have: everything that is not a plain file name."""


def headers() -> Iterator[Hostile]:
    """All of them."""
    for name, error, says, values in EDGES:
        offset = FIELDS[name][0] if error == CORRUPT else None
        for value in values:
            fields = {name: value}
            if name == "backing_offset":
                fields["backing_length"] = 4
            yield refused(f"{name}-{value:#x}", {"fields": fields}, error, says, offset)
    yield from _combined()
    yield from _version_2()
    yield from _names()
    yield from _extensions()


def refused(
    name: str,
    changes: dict[str, Any],
    error: str,
    says: str,
    offset: int | None = None,
    stage: Stage = Stage.HEADER,
    length: int | None = None,
    parts: Parts = SOUND_PARTS,
) -> Hostile:
    """A hostile image: `parts` with some changes, and cut at `length` or a hole up to there."""
    made = parts.but(**changes)
    size = made.length if length is None else length
    return Hostile(f"qcow2-{name}", "qcow2", size, made.layout(), error, says, offset, stage)


def _combined() -> Iterator[Hostile]:
    """Fields that are wrong only together."""
    changes: dict[str, Any]

    def case(name: str, says: str, offset: int, **fields: int) -> Hostile:
        return refused(name, {"fields": fields}, CORRUPT, says, offset)

    for size in (2 * MIB + 512, 1 << 40, 1 << 63, 2**64 - 1):
        yield case(f"size-{size:#x}", "L1 table size", 36, size=size)
    yield case("l1-as-large-as-may-be", "L1 table offset", 40, l1_entries=4 << 20)
    yield case("refcounts-as-large-as-may-be", "refcount table offset", 48, refcount_clusters=2048)
    for offset in (0, 512, BEYOND, 2**64 - CLUSTER):
        fields = {"snapshot_count": 1, "snapshot_offset": offset}
        yield case(f"snapshot-offset-{offset:#x}", "snapshot table offset", 64, **fields)
    yield case("extended-small-clusters", "cluster bits", 20, incompatible=1 << 4)
    yield case("compression-bit-alone", "compression type", 104, incompatible=1 << 3)
    for length in (CLUSTER, 1024, 0xFFFFFFFF):
        fields = {"backing_offset": 512, "backing_length": length}
        yield case(f"backing-length-{length}", "backing name length", 16, **fields)
    longer = {"header_length": 112}
    for kind in (2, 3, 255):
        pieces = {104: bytes([kind])}
        changes = {"fields": longer, "pieces": pieces}
        yield refused(f"compression-{kind}", changes, UNSUPPORTED, f"compression type {kind}")
    changes = {"fields": longer, "pieces": {104: b"\1"}}
    yield refused("zstd-without-bit", changes, CORRUPT, "compression type", 104)


def _version_2() -> Iterator[Hostile]:
    """The old header has no field for these, and must not be read as if it had."""
    changes: dict[str, Any]
    fields = {"version": 2, "cluster_bits": 0}
    yield refused("v2-cluster-bits", {"fields": fields}, CORRUPT, "cluster bits", 20)
    fields = {"version": 2, "l1_entries": 0}
    yield refused("v2-no-l1", {"fields": fields}, CORRUPT, "L1 table size", 36)
    changes = {"fields": {"version": 2, "backing_offset": 71, "backing_length": 1}}
    yield refused("v2-name-in-header", changes, CORRUPT, "backing name offset", 8)


def _names() -> Iterator[Hostile]:
    changes: dict[str, Any]
    for name, backing in NAMES.items():
        said = backing.decode("utf-8", "backslashreplace")
        changes = {"backing": backing}
        yield refused(f"name-{name}", changes, UNSAFE, "parent" if "\\" in said else _spelled(said))
    for name, word in {
        "spaces": b"a b",
        "long": b"q" * 16,
        "none": b"",
        "json": b"json:{}",
    }.items():
        changes = {"backing": b"p.qcow2", "extensions": extension(BACKING_FORMAT, word)}
        yield refused(f"backing-format-{name}", changes, CORRUPT, "backing format", 112)


def _spelled(name: str) -> str:
    return repr(name)


def _extensions() -> Iterator[Hostile]:
    changes: dict[str, Any]
    for length in (CLUSTER, 1 << 31, 0xFFFFFFFF):
        changes = {"extensions": extension(FEATURE_NAMES, b"", length)}
        yield refused(
            f"extension-{length:#x}", changes, CORRUPT, "header extension 0x6803f857", 104
        )
    changes = {
        "extensions": extension(0x12345678, b"x" * 16, 64),
        "backing": b"plain.qcow2",
    }
    yield refused("extension-over-name", changes, CORRUPT, "header extension 0x12345678", 104)
    changes = {"extensions": extension(1, b"")[:8] * 60 + extension(2, b"", 0xFFFF)}
    says = "header extension 0x00000002"
    yield refused("extension-behind-many", changes, CORRUPT, says, 104 + 60 * 8)
    names = bytes([0, 41]) + b"a \x1b[31m feature".ljust(46, b"\0")
    changes = {"fields": {"incompatible": 1 << 41}, "extensions": extension(FEATURE_NAMES, names)}
    yield refused("feature-with-a-name", changes, UNSUPPORTED, "'a ?[31m feature'")
    flood = Parts(fields={"cluster_bits": 21}, extensions=extension(1, b"") * (2 * MIB // 8 - 14))
    changes = {"pieces": {0: flood.header()}}
    yield refused("extension-flood", changes, CORRUPT, "header extensions", 104, length=64 * MIB)
