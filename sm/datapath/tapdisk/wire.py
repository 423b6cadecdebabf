"""Tapdisk's control protocol as data: message ids, layouts, and pure functions to pack and parse.

Every message is a struct of 544 bytes: a head of 8, then a union. Host byte order and C alignment,
so native order with the padding spelled out here. After tapdisk's message header and running
binaries; commit, query and cancel exist in its QCOW2-capable fork only.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

SIZE = 544
"""Bytes of a message, either way."""

LONGEST_TEXT = 255
"""Bytes of a text slot without its NUL; what is longer cannot be said."""

NO_PARENT_MINOR = -1
"""For `prt_devnum`: the parents are opened by name."""

HEAD = struct.Struct("=HH4x")
PID = struct.Struct("=i")
RESPONSE = struct.Struct("=i256s")
PARAMS = struct.Struct("=III256siH256s")
IMAGE = struct.Struct("=QII")
LISTED = struct.Struct("=iii256s")
TEXT_LENGTH = struct.Struct("=HH4xQ")
PROGRESS = struct.Struct("=QQ256s")


class Kind(IntEnum):
    """What is asked for. An answer's id is one higher; `ERROR` may come in its place."""

    ERROR = 1
    PID = 3
    ATTACH = 5
    OPEN = 7
    PAUSE = 9
    RESUME = 11
    CLOSE = 13
    DETACH = 15
    LIST = 19
    STATS = 21
    DISK_INFO = 28
    COMMIT = 31
    QUERY = 33
    CANCEL = 35

    @property
    def answer(self) -> int:
        """The id of the answer that is no error."""
        return self + 1


class Flag(IntFlag):
    """How an image is opened."""

    READ_ONLY = 0x002


class State(IntFlag):
    """Bits of a VBD's state; none of them while it runs."""

    DEAD = 0x001
    CLOSED = 0x002
    QUIESCE_REQUESTED = 0x004
    QUIESCED = 0x008
    PAUSE_REQUESTED = 0x010
    PAUSED = 0x020
    SHUTDOWN_REQUESTED = 0x040
    LOCKING = 0x080
    LOG_DROPPED = 0x100
    RESUME_FAILED = 0x200


@dataclass(frozen=True, slots=True)
class Response:
    """How a request ended: a positive errno, 0 for success; `message` is empty in most builds."""

    error: int
    message: str


@dataclass(frozen=True, slots=True)
class Image:
    """An open disk: its length in sectors of `sector_size` bytes."""

    sectors: int
    sector_size: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.sectors * self.sector_size


@dataclass(frozen=True, slots=True)
class Listed:
    """One VBD of a process. `argument` is `type:/path` of the leaf; empty without an open image.

    `count`: how many are still to come, this one included; 0 in the terminator.
    """

    count: int
    minor: int
    state: State
    argument: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A commit as tapdisk tells it: bytes done and in all, and qemu's word for the state."""

    current: int
    total: int
    status: str


def request(
    kind: Kind, minor: int = 0, *, text: str = "", flags: int = 0, timeout: int = 0
) -> bytes:
    """A request about VBD `minor`; `text` goes to the path slot. `timeout` in seconds, 0: 120.

    ValueError for a text that the slot cannot hold.
    """
    params = PARAMS.pack(flags, 0, 0, slot(text), NO_PARENT_MINOR, timeout, b"")
    return (HEAD.pack(kind, minor) + params).ljust(SIZE, b"\0")


def slot(text: str) -> bytes:
    """Text as a slot holds it; ValueError where it is too long or has a NUL."""
    data = os.fsencode(text)
    if len(data) > LONGEST_TEXT or b"\0" in data:
        raise ValueError(f"{len(data)} bytes, of {LONGEST_TEXT} at most and without NUL: {text!r}")
    return data


def answer_kind(message: bytes) -> int:
    """The id of an answer."""
    kind, _ = HEAD.unpack_from(message)
    return int(kind)


def response(message: bytes) -> Response:
    """The answer to most requests, and every `Kind.ERROR`."""
    error, said = RESPONSE.unpack_from(message, HEAD.size)
    return Response(error, _text(said))


def pid(message: bytes) -> int:
    """The answer to `Kind.PID`."""
    (number,) = PID.unpack_from(message, HEAD.size)
    return int(number)


def image(message: bytes) -> Image:
    """The answer to `Kind.OPEN` and `Kind.DISK_INFO`."""
    sectors, sector_size, _ = IMAGE.unpack_from(message, HEAD.size)
    return Image(sectors, sector_size)


def listed(message: bytes) -> Listed:
    """One of the answers to `Kind.LIST`."""
    count, minor, state, path = LISTED.unpack_from(message, HEAD.size)
    return Listed(count, minor, State(state & 0xFFFF), _text(path))


def text_length(message: bytes) -> int:
    """How many bytes of text follow the answer to `Kind.STATS`."""
    _, _, length = TEXT_LENGTH.unpack_from(message, HEAD.size)
    return int(length)


def progress(message: bytes) -> Progress:
    """The answer to `Kind.QUERY`."""
    current, total, status = PROGRESS.unpack_from(message, HEAD.size)
    return Progress(current, total, _text(status))


def _text(data: bytes) -> str:
    return os.fsdecode(data.partition(b"\0")[0])
