"""The NBD protocol as data: constants, layouts, and pure functions to pack and unpack them.

After the public protocol document, doc/proto.md of the NetworkBlockDevice project. All integers are
big endian. What a client sends is untrusted: every length has a cap here.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

INIT_MAGIC = 0x4E42444D41474943
OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668E33EF

MAX_REQUEST = 32 << 20
"""Bytes of data that one read or write may move, as other servers have it."""

MAX_OPTION = 64 << 10
"""Bytes of one option: a name of at most 4 KiB and some queries."""

MAX_QUERIES = 64
MAX_NAME = 4096

GREETING = struct.Struct(">QQH")
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">QII")
OPTION_REPLY = struct.Struct(">QIII")
EXPORT = struct.Struct(">QH")
REQUEST = struct.Struct(">IHHQQI")
SIMPLE = struct.Struct(">IIQ")
CHUNK = struct.Struct(">IHHQI")
OFFSET = struct.Struct(">Q")
ERROR_CHUNK = struct.Struct(">IH")
CONTEXT = struct.Struct(">I")
EXTENT = struct.Struct(">II")

ALLOCATION = b"base:allocation"
ALLOCATION_ID = 1


class HandshakeFlag(IntFlag):
    """What a server says first, and a client answers, about the handshake."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class TransmissionFlag(IntFlag):
    """What an export can do."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11


class Option(IntEnum):
    """What a client may ask for in the handshake."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class OptionReply(IntEnum):
    """How a server answers an option; errors have the highest bit set."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = (1 << 31) + 1
    ERR_INVALID = (1 << 31) + 3
    ERR_UNKNOWN = (1 << 31) + 6


class Info(IntEnum):
    """What an `OptionReply.INFO` tells."""

    EXPORT = 0
    BLOCK_SIZE = 3


class Command(IntEnum):
    """What a client may ask for afterwards."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    """How a command is meant."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4


ALLOWED_FLAGS = {
    Command.READ: CommandFlag.DF,
    Command.WRITE: CommandFlag.FUA,
    Command.FLUSH: CommandFlag(0),
    Command.TRIM: CommandFlag.FUA,
    Command.CACHE: CommandFlag(0),
    Command.WRITE_ZEROES: CommandFlag.FUA | CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO,
    Command.BLOCK_STATUS: CommandFlag.REQ_ONE,
}
"""The flags that each command may have here."""


class ChunkFlag(IntFlag):
    """About one chunk of a structured reply."""

    DONE = 1


class ChunkType(IntEnum):
    """What a chunk of a structured reply holds."""

    NONE = 0
    OFFSET_DATA = 1
    BLOCK_STATUS = 5
    ERROR = (1 << 15) + 1


class ExtentFlag(IntFlag):
    """Of `base:allocation`: takes no space here; reads as zero."""

    HOLE = 1
    ZERO = 2


WIRE_ERRORS = frozenset(
    {
        errno.EPERM,
        errno.EIO,
        errno.ENOMEM,
        errno.EINVAL,
        errno.ENOSPC,
        errno.EOVERFLOW,
        errno.ENOTSUP,
        errno.ESHUTDOWN,
    }
)
"""The errors that the protocol knows; their numbers are those of Linux."""

NEAREST = {
    errno.EROFS: errno.EPERM,
    errno.EACCES: errno.EPERM,
    errno.EDQUOT: errno.ENOSPC,
    errno.EFBIG: errno.ENOSPC,
}


class ProtocolError(Exception):
    """The client does not keep to the protocol; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Queries:
    """What a meta context option asks for: of which export, and which contexts."""

    export: bytes
    names: tuple[bytes, ...]


def wire_error(number: int | None) -> int:
    """The error of the protocol for an errno; EIO for what it does not know."""
    number = NEAREST.get(number or 0, number)
    return number if number in WIRE_ERRORS else errno.EIO


def greeting() -> bytes:
    """What the server says first."""
    flags = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
    return GREETING.pack(INIT_MAGIC, OPTION_MAGIC, flags)


def option_reply(option: int, kind: OptionReply, data: bytes = b"") -> bytes:
    """One answer to an option."""
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def listed(name: bytes) -> bytes:
    """The data of an `OptionReply.SERVER`."""
    return struct.pack(">I", len(name)) + name


def info_export(size: int, flags: TransmissionFlag) -> bytes:
    """The data of an `OptionReply.INFO` about size in bytes and abilities."""
    return struct.pack(">HQH", Info.EXPORT, size, flags)


def info_block_size(smallest: int, preferred: int, largest: int) -> bytes:
    """The data of an `OptionReply.INFO` about sizes of requests in bytes."""
    return struct.pack(">HIII", Info.BLOCK_SIZE, smallest, preferred, largest)


def meta_context(number: int, name: bytes) -> bytes:
    """The data of an `OptionReply.META_CONTEXT`."""
    return CONTEXT.pack(number) + name


def unpack_go(data: bytes) -> bytes:
    """The export name in the data of `Option.GO` or `Option.INFO`; ValueError when malformed.

    Which kinds of information the client wishes is checked for form only: it gets all.
    """
    name, at = _counted(data, 0)
    if at + 2 > len(data) or at + 2 + 2 * int.from_bytes(data[at : at + 2], "big") != len(data):
        raise ValueError("information requests of another length than they say")
    return name


def unpack_queries(data: bytes) -> Queries:
    """The data of a meta context option; ValueError when malformed."""
    export, at = _counted(data, 0)
    if at + 4 > len(data):
        raise ValueError("no number of queries")
    count = int.from_bytes(data[at : at + 4], "big")
    if count > MAX_QUERIES:
        raise ValueError(f"{count} queries")
    at += 4
    names = []
    for _ in range(count):
        name, at = _counted(data, at)
        names.append(name)
    if at != len(data):
        raise ValueError("more data than queries")
    return Queries(export, tuple(names))


def simple_reply(cookie: int, error: int = 0) -> bytes:
    """The reply to a command that has no data."""
    return SIMPLE.pack(SIMPLE_MAGIC, error, cookie)


def error_chunk(cookie: int, error: int) -> bytes:
    """The last chunk of a structured reply that failed."""
    head = CHUNK.pack(CHUNK_MAGIC, ChunkFlag.DONE, ChunkType.ERROR, cookie, ERROR_CHUNK.size)
    return head + ERROR_CHUNK.pack(error, 0)


def status_chunk(cookie: int, extents: Sequence[tuple[int, int]]) -> bytes:
    """The reply to a block status: (length in bytes, flags) pairs of `base:allocation`."""
    data = b"".join(EXTENT.pack(length, flags) for length, flags in extents)
    size = CONTEXT.size + len(data)
    head = CHUNK.pack(CHUNK_MAGIC, ChunkFlag.DONE, ChunkType.BLOCK_STATUS, cookie, size)
    return head + CONTEXT.pack(ALLOCATION_ID) + data


def merged(
    extents: Iterable[tuple[int, int]], most: int, longest: int = (1 << 32) - 4096
) -> list[tuple[int, int]]:
    """(length, flags) pairs with equal neighbours joined, at most `most` of them.

    `longest` keeps a length within its 32 bits.
    """
    found: list[tuple[int, int]] = []
    for length, flags in extents:
        if found and found[-1][1] == flags and found[-1][0] + length <= longest:
            found[-1] = (found[-1][0] + length, flags)
        elif len(found) == most:
            break
        else:
            found.append((length, flags))
    return found


def _counted(data: bytes, at: int) -> tuple[bytes, int]:
    """Bytes behind their 32-bit length at `at`, and where they end."""
    end = at + 4 + int.from_bytes(data[at : at + 4], "big")
    if at + 4 > len(data) or end > len(data) or end - at - 4 > MAX_NAME:
        raise ValueError("a string longer than its option or than 4 KiB")
    return data[at + 4 : end], end
