"""One client after the handshake: many requests in one receive, many replies in one send.

Memory is bounded by the buffers here: one for what comes in, which grows to the largest request and
shrinks again, and one for what goes out, in which long reads are sent piece by piece.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from mmap import mmap

from sm.nbd import protocol
from sm.nbd.export import Export
from sm.nbd.gate import Gate
from sm.nbd.handshake import Agreed
from sm.nbd.protocol import (
    ALLOWED_FLAGS,
    CHUNK,
    CHUNK_MAGIC,
    MAX_REQUEST,
    OFFSET,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE,
    SIMPLE_MAGIC,
    ChunkFlag,
    ChunkType,
    Command,
    CommandFlag,
    ExtentFlag,
    ProtocolError,
)
from sm.nbd.shortage import Shortage, wait
from sm.nbd.traffic import Traffic

INCOMING = 256 << 10
KEPT = 2 << 20
"""A buffer for what comes in that is larger than this is given back after its request."""

OUTGOING = 1 << 20
PIECE = OUTGOING // 2
"""Guest bytes of one chunk; a longer read is several."""

MAX_EXTENTS = 4096
"""In one reply to a block status, which then tells of less than was asked for."""

READ, WRITE = int(Command.READ), int(Command.WRITE)
DATA_HEAD = CHUNK.size + OFFSET.size


class Connection:
    """Serves requests until the client leaves. `export` gives the disk of the moment.

    `shortage`: what is done with writes that find no room. `traffic`: what was moved so far.
    """

    def __init__(
        self,
        peer: socket.socket,
        agreed: Agreed,
        gate: Gate,
        export: Callable[[], Export],
        shortage: Shortage,
    ) -> None:
        self._peer = peer
        self._agreed = agreed
        self._gate = gate
        self._export = export
        self._shortage = shortage
        self._short = False
        """Whether the next request is a write that found no room, and is tried again."""
        self.traffic = Traffic()
        self._in = mmap(-1, INCOMING)
        self._start = self._end = 0
        self._out = memoryview(bytearray(OUTGOING))
        self._filled = 0
        self._read: tuple[int, int, int] | None = None
        """A read that is not fully answered: cookie, offset and length of what is left."""
        self._failure: ProtocolError | None = None
        self._leaving = False

    def run(self) -> None:
        """Until the client leaves; `ProtocolError` when it must, OSError when it is gone."""
        try:
            self._run()
        finally:
            self._set_short(False)

    def _run(self) -> None:
        while True:
            with self._gate:
                blocked = self._serve(self._export())
            if self._filled:
                self._peer.sendall(self._out[: self._filled])
                self._filled = 0
            if self._failure is not None:
                raise self._failure
            if self._short:
                wait(self._peer)
            elif self._leaving or (not blocked and not self._receive()):
                return

    def _receive(self) -> bool:
        """Take in whatever is there, waiting for some; False at the end."""
        left = self._end - self._start
        size, need = len(self._in), self._needed()
        if self._start or need > size:
            old = self._in
            if need > size or size > KEPT:
                # Mapped, so that what is only announced takes no memory.
                self._in = mmap(-1, max(INCOMING, need))
            self._in[:left] = old[self._start : self._end]
            self._start, self._end = 0, left
        count = self._peer.recv_into(memoryview(self._in)[self._end :])
        self._end += count
        return count > 0

    def _needed(self) -> int:
        """The length of the request that has begun to come in, with its data."""
        if self._end - self._start < REQUEST.size:
            return REQUEST.size
        magic, _, kind, _, _, length = REQUEST.unpack_from(self._in, self._start)
        if magic == REQUEST_MAGIC and kind == WRITE and length <= MAX_REQUEST:
            return REQUEST.size + int(length)
        return REQUEST.size

    def _serve(self, export: Export) -> bool:
        """Answer what is there; True when the replies must be sent before going on."""
        if self._read is not None and not self._go_on(export):
            return True
        incoming, structured, out = memoryview(self._in), self._agreed.structured, self._out
        head = DATA_HEAD if structured else SIMPLE.size
        size = export.size
        # Counted in locals, which costs the common case least.
        reads = bytes_read = 0
        try:
            while self._end - self._start >= REQUEST.size:
                at = self._start
                magic, flags, kind, cookie, offset, length = REQUEST.unpack_from(incoming, at)
                if magic != REQUEST_MAGIC:
                    self._failure = ProtocolError(f"request magic {magic:#x}")
                    return True
                if kind == READ and not flags and 0 < length <= PIECE and offset + length <= size:
                    # The common case, on its own for speed.
                    begin = self._filled
                    end = begin + head + length
                    if end > OUTGOING:
                        return True
                    try:
                        export.read_into(offset, out[begin + head : end])
                    except OSError as error:
                        self._refuse(kind, cookie, error.errno)
                    else:
                        self._data_head(cookie, offset, length, done=True)
                        self._filled = end
                        reads += 1
                        bytes_read += length
                    self._start = at + REQUEST.size
                    continue
                stop = self._serve_other(export, at, flags, kind, cookie, offset, length)
                if stop is not None:
                    return stop
            return False
        finally:
            self.traffic.reads += reads
            self.traffic.bytes_read += bytes_read

    def _serve_other(
        self, export: Export, at: int, flags: int, kind: int, cookie: int, offset: int, length: int
    ) -> bool | None:
        """Answer the request at `at`, of any kind; None to go on, else as `_serve`."""
        if OUTGOING - self._filled < PIECE // 2:
            return True
        end = at + REQUEST.size
        if kind == WRITE:
            if length > MAX_REQUEST:
                self._failure = ProtocolError(f"a write of {length} bytes")
                return True
            end += length
            if self._end < end:
                return False
        self._start = end
        if kind == Command.DISC:
            self._leaving = True
            return True
        data = memoryview(self._in)[at + REQUEST.size : end]
        number = self._do(export, kind, flags, cookie, offset, length, data)
        inside = offset + length <= export.size
        self._set_short(number == errno.ENOSPC and inside and self._shortage.grows)
        if self._short:
            self._start = at
            return True
        if number:
            self._refuse(kind, cookie, number)
        elif self._read is not None and not self._go_on(export):
            return True
        return None

    def _do(
        self,
        export: Export,
        kind: int,
        flags: int,
        cookie: int,
        offset: int,
        length: int,
        data: memoryview,
    ) -> int:
        """Carry out one request and put its reply in the buffer; returns an errno."""
        # As integers: the complement of a flag has no bits that are not named.
        if kind not in ALLOWED_FLAGS or flags & ~int(ALLOWED_FLAGS[Command(kind)]):
            return errno.EINVAL
        command, wanted = Command(kind), CommandFlag(flags)
        changes = command in (Command.WRITE, Command.WRITE_ZEROES, Command.TRIM)
        if changes and export.read_only:
            return errno.EPERM
        if command is not Command.FLUSH and offset + length > export.size:
            return errno.ENOSPC if changes else errno.EINVAL
        try:
            if command is Command.READ:
                return self._begin_read(wanted, cookie, offset, length)
            if command is Command.BLOCK_STATUS:
                return self._status(export, wanted, cookie, offset, length)
            if command is Command.WRITE:
                export.write(offset, data)
                self.traffic.writes += 1
                self.traffic.bytes_written += length
            elif command is Command.WRITE_ZEROES:
                if CommandFlag.FAST_ZERO in wanted:
                    return errno.ENOTSUP
                export.write_zeroes(offset, length, allocate=CommandFlag.NO_HOLE in wanted)
            elif command is Command.TRIM:
                export.trim(offset, length)
            elif command is Command.CACHE:
                export.cache(offset, length)
            if command is Command.FLUSH or CommandFlag.FUA in wanted:
                export.flush()
        except OSError as error:
            return error.errno or errno.EIO
        self._add(protocol.simple_reply(cookie))
        return 0

    def _set_short(self, short: bool) -> None:
        if short != self._short:
            self._short = short
            if short:
                self._shortage.began()
            else:
                self._shortage.ended()

    # Replies

    def _begin_read(self, flags: CommandFlag, cookie: int, offset: int, length: int) -> int:
        if length > MAX_REQUEST:
            return errno.EINVAL
        if CommandFlag.DF in flags:
            if not self._agreed.structured:
                return errno.EINVAL
            if length > PIECE:
                return errno.EOVERFLOW
        if length == 0:
            return errno.EINVAL
        if not self._agreed.structured:
            self._add(protocol.simple_reply(cookie))
        self._read = cookie, offset, length
        return 0

    def _go_on(self, export: Export) -> bool:
        """Answer more of the long read; True when it is done."""
        structured = self._agreed.structured
        head = DATA_HEAD if structured else 0
        while self._read is not None:
            cookie, offset, left = self._read
            count = min(left, PIECE)
            begin = self._filled
            end = begin + head + count
            if end > OUTGOING:
                return False
            try:
                export.read_into(offset, self._out[begin + head : end])
            except OSError as error:
                self._read = None
                if not structured:
                    # Its reply has begun with success; nothing but the end can take that back.
                    self._failure = ProtocolError(f"a read failed half way: {error}")
                    return False
                self._refuse(READ, cookie, error.errno)
                return True
            if structured:
                self._data_head(cookie, offset, count, done=count == left)
            self._filled = end
            self.traffic.bytes_read += count
            self.traffic.reads += count == left
            self._read = (cookie, offset + count, left - count) if left > count else None
        return True

    def _data_head(self, cookie: int, offset: int, length: int, *, done: bool) -> None:
        out, at = self._out, self._filled
        if self._agreed.structured:
            flag, size = ChunkFlag.DONE if done else 0, OFFSET.size + length
            CHUNK.pack_into(out, at, CHUNK_MAGIC, flag, ChunkType.OFFSET_DATA, cookie, size)
            OFFSET.pack_into(out, at + CHUNK.size, offset)
        else:
            SIMPLE.pack_into(out, at, SIMPLE_MAGIC, 0, cookie)

    def _status(
        self, export: Export, flags: CommandFlag, cookie: int, offset: int, length: int
    ) -> int:
        if not self._agreed.block_status or length == 0:
            return errno.EINVAL
        hole = int(ExtentFlag.HOLE | ExtentFlag.ZERO)
        found = ((count, hole if zero else 0) for count, zero in export.extents(offset, length))
        most = 1 if CommandFlag.REQ_ONE in flags else MAX_EXTENTS
        self._add(protocol.status_chunk(cookie, protocol.merged(found, most)))
        return 0

    def _refuse(self, kind: int, cookie: int, number: int | None) -> None:
        error = protocol.wire_error(number)
        if self._agreed.structured and kind in (Command.READ, Command.BLOCK_STATUS):
            self._add(protocol.error_chunk(cookie, error))
        else:
            self._add(protocol.simple_reply(cookie, error))

    def _add(self, data: bytes) -> None:
        self._out[self._filled : self._filled + len(data)] = data
        self._filled += len(data)
