"""The QCOW2 format as data: positions, bits and caps.

Source: "Qcow2 Image File Format" (docs/interop/qcow2.txt of QEMU). All integers are big-endian.
The caps are those that qemu itself enforces when it opens an image.
"""

from __future__ import annotations

import struct

MAGIC = b"QFI\xfb"

FIXED = struct.Struct(">4sIQIIQIIQQIIQ")
"""Version 2 and the start of version 3: magic, version, backing name offset and length, cluster
bits, size, crypt method, L1 entries and offset, refcount table offset and clusters, snapshots and
their offset."""

FIXED_V3 = struct.Struct(">QQQII")
"""Version 3 from byte 72: incompatible, compatible and autoclear bits, refcount order, header
length."""

V2_LENGTH = 72
V3_LENGTH = 104
COMPRESSION_TYPE = 104
"""Offset of the one-byte compression type, present when the header is longer than that."""

BACKING_OFFSET_FIELD = 8
CLUSTER_BITS_FIELD = 20
SIZE_FIELD = 24
L1_SIZE_FIELD = 36
L1_OFFSET_FIELD = 40
REFCOUNT_OFFSET_FIELD = 48
REFCOUNT_CLUSTERS_FIELD = 56
SNAPSHOT_COUNT_FIELD = 60
SNAPSHOT_OFFSET_FIELD = 64
INCOMPATIBLE_FIELD = 72
REFCOUNT_ORDER_FIELD = 96
HEADER_LENGTH_FIELD = 100

MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21
MIN_EXTENDED_CLUSTER_BITS = 14
MAX_L1_BYTES = 32 << 20
MAX_REFCOUNT_TABLE_BYTES = 8 << 20
MAX_SNAPSHOTS = 65536
MAX_SNAPSHOT_BYTES = 1024 * MAX_SNAPSHOTS
MAX_BACKING_NAME = 1023
MAX_BACKING_FORMAT = 15
MAX_REFCOUNT_ORDER = 6
MAX_EXTENSIONS = 64
"""Of our own: seven kinds are known, and a header of 2 MiB has room for a quarter of a million,
which would make each look at the image take a second."""

INCOMPATIBLE_DIRTY = 1 << 0
INCOMPATIBLE_CORRUPT = 1 << 1
INCOMPATIBLE_EXTERNAL_DATA = 1 << 2
INCOMPATIBLE_COMPRESSION_TYPE = 1 << 3
INCOMPATIBLE_EXTENDED_L2 = 1 << 4
"""Bits that a reader must understand to open the image at all. Plain integers, because enum.IntFlag
takes a third of the time of reading a header."""

INCOMPATIBLE_ACCEPTED = (
    INCOMPATIBLE_DIRTY
    | INCOMPATIBLE_CORRUPT
    | INCOMPATIBLE_COMPRESSION_TYPE
    | INCOMPATIBLE_EXTENDED_L2
)

AUTOCLEAR_BITMAPS = 1 << 0
"""The bitmaps extension agrees with the data."""

EXT_END = 0
EXT_BACKING_FORMAT = 0xE2792ACA
EXT_FEATURE_NAMES = 0x6803F857
EXT_BITMAPS = 0x23852875
EXT_HIDDEN = 0x76617465
"""The hidden mark of this storage manager and its predecessors: 8 bytes, the first is 1 when
hidden. qemu keeps extensions that it does not know."""

EXT_HIDDEN_LENGTH = 8
FEATURE_ENTRY = 48
FEATURE_NAME = 46

COMPRESSION_ZLIB = 0
COMPRESSION_ZSTD = 1

OFFSET_MASK = 0x00FFFFFFFFFFFE00
"""Bits 9 to 55 of an L1 entry or a standard L2 entry: where the table or cluster is."""

L1_RESERVED = 0x7F000000000001FF
L2_RESERVED = 0x3F000000000001FE
REFCOUNT_TABLE_RESERVED = 0x1FF
FLAG_COPIED = 1 << 63
FLAG_COMPRESSED = 1 << 62
FLAG_ZERO = 1 << 0
"""In a standard L2 entry of version 3 without extended L2: the cluster reads as zero."""

SUBCLUSTERS = 32
