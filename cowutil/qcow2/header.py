"""The header cluster of a QCOW2 image: fixed fields, extensions, backing name.

Reading it costs one or two small reads and imports nothing heavy: a scan does it for every image
of a storage repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sm.cowutil.base import ParentLink
from sm.cowutil.errors import ImageCorrupt, ImageNotRecognised, ImageUnsupported
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.backing import volume_name
from sm.cowutil.qcow2.source import Source

FIRST_READ = 4096
"""Holds the whole header as qemu writes it; only a longer one costs a second read."""


@dataclass(frozen=True, slots=True)
class Extension:
    """One header extension; `offset` is where its data begins in the file."""

    type: int
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """Where the next extension begins: data is padded to a multiple of 8."""
        return self.offset + -(-len(self.data) // 8) * 8


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a header that passed every check. Sizes and offsets in bytes.

    `size` is rounded down to whole sectors, as qemu does. `extensions_end` is where the end marker
    is, or where the extensions stop without one (`end_marker` false).
    """

    version: int
    length: int
    cluster_bits: int
    size: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    refcount_order: int
    snapshot_count: int
    snapshot_offset: int
    incompatible: int
    compatible: int
    autoclear: int
    compression: int
    backing_offset: int
    backing_length: int
    extensions: tuple[Extension, ...]
    extensions_end: int
    end_marker: bool
    parent: ParentLink | None

    @property
    def cluster_size(self) -> int:
        """Bytes in a cluster."""
        return 1 << self.cluster_bits

    @property
    def extended(self) -> bool:
        """Whether L2 entries have 16 bytes and clusters 32 subclusters."""
        return self.incompatible & layout.INCOMPATIBLE_EXTENDED_L2 != 0

    @property
    def entry_bytes(self) -> int:
        """Bytes of one L2 entry."""
        return 16 if self.extended else 8

    @property
    def table_entries(self) -> int:
        """L2 entries in one table."""
        return self.cluster_size // self.entry_bytes

    @property
    def l1_needed(self) -> int:
        """L1 entries that the virtual size needs."""
        return -(-self.size // (self.table_entries * self.cluster_size))

    @property
    def marks(self) -> tuple[str, ...]:
        """`dirty` and `corrupt`, where set."""
        names = ((layout.INCOMPATIBLE_DIRTY, "dirty"), (layout.INCOMPATIBLE_CORRUPT, "corrupt"))
        return tuple(word for bit, word in names if self.incompatible & bit)

    @property
    def hidden(self) -> bool:
        """Whether the hidden mark is set; an image without the mark is not hidden."""
        mark = self.extension(layout.EXT_HIDDEN)
        return mark is not None and mark.data[:1] == b"\x01"

    def extension(self, kind: int) -> Extension | None:
        """The first extension of this type."""
        return next((found for found in self.extensions if found.type == kind), None)


def read_header(source: Source) -> Header:
    """The header of an image, with every field checked.

    Raises `ImageNotRecognised` without the magic number, `ImageCorrupt` for a value that the format
    forbids, `ImageUnsupported` for a feature that is refused, `ImageUnsafe` for a backing name that
    is not a plain file name.
    """
    return _Parser(source).parse()


class _Parser:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._path: Path = source.path
        self._bytes = source.read(0, min(FIRST_READ, source.size), "header")

    def parse(self) -> Header:
        if self._bytes[:4] != layout.MAGIC:
            raise ImageNotRecognised(self._path, "has no QCOW2 magic number at byte 0")
        if len(self._bytes) < layout.V2_LENGTH:
            raise self._corrupt("header", 0, "the file ends inside it")
        (
            _,
            version,
            backing_offset,
            backing_length,
            cluster_bits,
            size,
            crypt,
            l1_entries,
            l1_offset,
            refcount_offset,
            refcount_clusters,
            snapshot_count,
            snapshot_offset,
        ) = layout.FIXED.unpack_from(self._bytes)
        if version not in (2, 3):
            raise ImageUnsupported(
                self._path, f"QCOW2 version {version}", "convert it with qemu-img to version 3"
            )
        if not layout.MIN_CLUSTER_BITS <= cluster_bits <= layout.MAX_CLUSTER_BITS:
            problem = f"{cluster_bits} is not from 9 to 21"
            raise self._corrupt("cluster bits", layout.CLUSTER_BITS_FIELD, problem)
        incompatible, compatible, autoclear, order, length = 0, 0, 0, 4, layout.V2_LENGTH
        if version == 3:
            if len(self._bytes) < layout.V3_LENGTH:
                raise self._corrupt("header", 0, "the file ends inside it")
            incompatible, compatible, autoclear, order, length = layout.FIXED_V3.unpack_from(
                self._bytes, layout.INCOMPATIBLE_FIELD
            )
            if not layout.V3_LENGTH <= length <= 1 << cluster_bits:
                problem = f"{length} is not from 104 to the cluster size"
                raise self._corrupt("header length", layout.HEADER_LENGTH_FIELD, problem)
        extensions, extensions_end, end_marker = self._extensions(
            length, backing_offset or 1 << cluster_bits, 1 << cluster_bits
        )
        self._refuse_features(incompatible, crypt, extensions)
        header = Header(
            version=version,
            length=length,
            cluster_bits=cluster_bits,
            size=size // 512 * 512,
            l1_entries=l1_entries,
            l1_offset=l1_offset,
            refcount_offset=refcount_offset,
            refcount_clusters=refcount_clusters,
            refcount_order=order,
            snapshot_count=snapshot_count,
            snapshot_offset=snapshot_offset,
            incompatible=incompatible,
            compatible=compatible,
            autoclear=autoclear,
            compression=self._compression(length, incompatible),
            backing_offset=backing_offset,
            backing_length=backing_length,
            extensions=extensions,
            extensions_end=extensions_end,
            end_marker=end_marker,
            parent=self._parent(backing_offset, backing_length, length, cluster_bits, extensions),
        )
        self._check_tables(header)
        return header

    def _corrupt(self, field: str, offset: int, problem: str) -> ImageCorrupt:
        return ImageCorrupt(self._path, field, offset, problem)

    def _at(self, offset: int, length: int, field: str) -> bytes:
        """Bytes of the header cluster, from the first read where it reaches that far."""
        if offset + length <= len(self._bytes):
            return self._bytes[offset : offset + length]
        return self._source.read(offset, length, field)

    def _extensions(
        self, start: int, end: int, cluster_size: int
    ) -> tuple[tuple[Extension, ...], int, bool]:
        if not start <= end <= cluster_size:
            problem = f"{end} is not behind the header and inside the first cluster"
            raise self._corrupt("backing name offset", layout.BACKING_OFFSET_FIELD, problem)
        end = min(end, self._source.size)
        found: list[Extension] = []
        position = start
        while position + 8 <= end:
            word = self._at(position, 8, "header extension")
            kind, length = int.from_bytes(word[:4], "big"), int.from_bytes(word[4:], "big")
            if kind == layout.EXT_END:
                return tuple(found), position, True
            if length > end - position - 8:
                problem = f"length {length} reaches beyond byte {end}"
                raise self._corrupt(f"header extension {kind:#010x}", position, problem)
            if len(found) == layout.MAX_EXTENSIONS:
                problem = f"are more than {layout.MAX_EXTENSIONS}"
                raise self._corrupt("header extensions", start, problem)
            data = self._at(position + 8, length, "header extension")
            found.append(Extension(kind, position + 8, data))
            position = found[-1].end
        return tuple(found), position, False

    def _refuse_features(
        self, incompatible: int, crypt: int, extensions: tuple[Extension, ...]
    ) -> None:
        if crypt:
            advice = "decrypt it with qemu-img convert before the import"
            raise ImageUnsupported(self._path, "encryption", advice)
        refused = incompatible & ~layout.INCOMPATIBLE_ACCEPTED
        if refused & layout.INCOMPATIBLE_EXTERNAL_DATA:
            advice = "copy it with qemu-img convert into one file"
            raise ImageUnsupported(self._path, "an external data file", advice)
        if refused:
            bit = (refused & -refused).bit_length() - 1
            name = _feature_name(extensions, bit) or f"incompatible feature bit {bit}"
            advice = "convert it with the program that made it to plain QCOW2 version 3"
            raise ImageUnsupported(self._path, name, advice)

    def _compression(self, length: int, incompatible: int) -> int:
        kind = layout.COMPRESSION_ZLIB
        if length > layout.COMPRESSION_TYPE:
            kind = self._at(layout.COMPRESSION_TYPE, 1, "compression type")[0]
        if kind not in (layout.COMPRESSION_ZLIB, layout.COMPRESSION_ZSTD):
            advice = "convert it with qemu-img to zlib"
            raise ImageUnsupported(self._path, f"compression type {kind}", advice)
        marked = incompatible & layout.INCOMPATIBLE_COMPRESSION_TYPE != 0
        if (kind != layout.COMPRESSION_ZLIB) != marked:
            problem = f"{kind} contradicts incompatible feature bit 3"
            raise self._corrupt("compression type", layout.COMPRESSION_TYPE, problem)
        return kind

    def _parent(
        self,
        offset: int,
        length: int,
        header_length: int,
        cluster_bits: int,
        extensions: tuple[Extension, ...],
    ) -> ParentLink | None:
        if offset == 0:
            return None
        if length > min(layout.MAX_BACKING_NAME, (1 << cluster_bits) - offset):
            problem = f"{length} exceeds 1023 bytes or the first cluster"
            raise self._corrupt("backing name length", layout.BACKING_OFFSET_FIELD + 8, problem)
        name = volume_name(self._path, self._at(offset, length, "backing name"))
        chosen = next((e for e in extensions if e.type == layout.EXT_BACKING_FORMAT), None)
        if chosen is None:
            return ParentLink(name, None)
        word = chosen.data.replace(b"_", b"").replace(b"-", b"")
        if len(chosen.data) > layout.MAX_BACKING_FORMAT or not word.isalnum():
            raise self._corrupt("backing format", chosen.offset, "is not a short plain word")
        return ParentLink(name, chosen.data.decode("ascii"))

    def _check_tables(self, header: Header) -> None:
        if header.extended and header.cluster_bits < layout.MIN_EXTENDED_CLUSTER_BITS:
            problem = f"{header.cluster_bits} is below 14, which extended L2 entries need"
            raise self._corrupt("cluster bits", layout.CLUSTER_BITS_FIELD, problem)
        if header.refcount_order > layout.MAX_REFCOUNT_ORDER:
            problem = f"{header.refcount_order} is above 6"
            raise self._corrupt("refcount order", layout.REFCOUNT_ORDER_FIELD, problem)
        if header.l1_entries * 8 > layout.MAX_L1_BYTES:
            problem = f"{header.l1_entries} entries exceed 32 MiB"
            raise self._corrupt("L1 table size", layout.L1_SIZE_FIELD, problem)
        if header.l1_entries < header.l1_needed:
            problem = f"{header.l1_entries} entries are too few for {header.size} bytes"
            raise self._corrupt("L1 table size", layout.L1_SIZE_FIELD, problem)
        refcount_bytes = header.refcount_clusters << header.cluster_bits
        if not 0 < refcount_bytes <= layout.MAX_REFCOUNT_TABLE_BYTES:
            problem = f"{header.refcount_clusters} clusters are none or exceed 8 MiB"
            raise self._corrupt("refcount table size", layout.REFCOUNT_CLUSTERS_FIELD, problem)
        if header.snapshot_count > layout.MAX_SNAPSHOTS:
            problem = f"{header.snapshot_count} exceeds 65536"
            raise self._corrupt("snapshot count", layout.SNAPSHOT_COUNT_FIELD, problem)
        tables = (
            ("L1 table offset", layout.L1_OFFSET_FIELD, header.l1_offset, header.l1_entries * 8),
            (
                "refcount table offset",
                layout.REFCOUNT_OFFSET_FIELD,
                header.refcount_offset,
                refcount_bytes,
            ),
            (
                "snapshot table offset",
                layout.SNAPSHOT_OFFSET_FIELD,
                header.snapshot_offset,
                header.snapshot_count,
            ),
        )
        for field, position, offset, length in tables:
            if offset % header.cluster_size or (length and offset == 0):
                raise self._corrupt(field, position, f"{offset} is not a cluster of its own")
            if length and offset + length > self._source.size:
                problem = f"{length} bytes from {offset} are beyond the end of the file"
                raise self._corrupt(field, position, problem)


def _feature_name(extensions: tuple[Extension, ...], bit: int) -> str | None:
    """What the image itself calls incompatible feature `bit`, as printable text."""
    for table in extensions:
        if table.type != layout.EXT_FEATURE_NAMES:
            continue
        for start in range(0, len(table.data) - layout.FEATURE_ENTRY + 1, layout.FEATURE_ENTRY):
            entry = table.data[start : start + layout.FEATURE_ENTRY]
            if entry[0] == 0 and entry[1] == bit:
                text = entry[2:].split(b"\0", 1)[0].decode("ascii", "replace")
                return f"'{''.join(c if c.isprintable() else '?' for c in text)}'"
    return None
