"""A plain NBD client that says exactly what it is told to, and a disk in memory to serve."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

from sm.nbd import protocol
from sm.nbd.protocol import Command, Option, OptionReply
from tests.support.patience import patient

NAME = b"vdi"


class Gone(Exception):
    """The server closed the connection."""


class MemoryDisk:
    """An export in memory; `faults` gives an errno for an offset at which reads and writes fail."""

    def __init__(self, size: int, *, read_only: bool = False) -> None:
        self.data = bytearray(size)
        self.size = size
        self.read_only = read_only
        self.flushes = 0
        self.faults: dict[int, int] = {}

    def _look(self, offset: int, length: int) -> None:
        for place, number in self.faults.items():
            if offset <= place < offset + length:
                raise OSError(number, os.strerror(number))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._look(offset, len(buffer))
        buffer[:] = self.data[offset : offset + len(buffer)]

    def write(self, offset: int, data: memoryview) -> None:
        self._look(offset, len(data))
        self.data[offset : offset + len(data)] = data

    def write_zeroes(self, offset: int, length: int, *, allocate: bool) -> None:
        self.data[offset : offset + length] = bytes(length)

    def trim(self, offset: int, length: int) -> None:
        self.data[offset : offset + length] = bytes(length)

    def cache(self, offset: int, length: int) -> None:
        pass

    def flush(self) -> None:
        self.flushes += 1

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        end = offset + length
        while offset < end:
            stop = min(end, (offset // 4096 + 1) * 4096)
            yield stop - offset, not any(self.data[offset:stop])
            offset = stop


class Client:
    """One connection; `structured` as negotiated. Errors are returned, not raised."""

    def __init__(self, path: Path, *, structured: bool = False, export: bytes = NAME) -> None:
        self.peer = socket.socket(socket.AF_UNIX)
        self.peer.settimeout(patient(20))
        self.peer.connect(str(path))
        self.structured = structured
        self._cookies = count(1)
        self.take(protocol.GREETING.size)
        self.peer.sendall(protocol.CLIENT_FLAGS.pack(3))
        if structured:
            assert self.option(Option.STRUCTURED_REPLY)[0][0] == OptionReply.ACK
            query = len(export).to_bytes(4, "big") + export + struct.pack(">II", 1, 15)
            replies = self.option(Option.SET_META_CONTEXT, query + b"base:allocation")
            assert [kind for kind, _ in replies] == [OptionReply.META_CONTEXT, OptionReply.ACK]
        go = len(export).to_bytes(4, "big") + export + bytes(2)
        replies = self.option(Option.GO, go)
        assert replies[-1][0] == OptionReply.ACK, replies
        told = next(data for _, data in replies if data[:2] == protocol.Info.EXPORT.to_bytes(2))
        _, self.size, self.flags = struct.unpack(">HQH", told)

    def take(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            try:
                more = self.peer.recv(length - len(data))
            except ConnectionError as error:
                raise Gone from error
            if not more:
                raise Gone
            data += more
        return bytes(data)

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Ask; all replies up to the last."""
        self.peer.sendall(protocol.OPTION.pack(protocol.OPTION_MAGIC, option, len(data)) + data)
        replies = []
        while True:
            magic, of, kind, length = protocol.OPTION_REPLY.unpack(self.take(20))
            assert (magic, of) == (protocol.OPTION_REPLY_MAGIC, option)
            replies.append((kind, self.take(length)))
            if kind == OptionReply.ACK or kind >> 31:
                return replies

    def send(
        self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0
    ) -> int:
        """Send a request; gives its cookie."""
        cookie = next(self._cookies)
        head = protocol.REQUEST.pack(
            protocol.REQUEST_MAGIC, flags, kind, cookie, offset, length or len(data)
        )
        try:
            self.peer.sendall(head + data)
        except ConnectionError as error:
            raise Gone from error
        return cookie

    def answer(self, cookie: int, length: int = 0) -> tuple[int, bytes]:
        """The whole reply to a request: (error, data read, or the body of a status)."""
        if not (self.structured and length):
            magic, error, found = protocol.SIMPLE.unpack(self.take(16))
            assert (magic, found) == (protocol.SIMPLE_MAGIC, cookie)
            return error, b"" if error else self.take(length)
        data, error, begin = bytearray(), 0, None
        while True:
            magic, flags, kind, found, size = protocol.CHUNK.unpack(self.take(20))
            assert (magic, found) == (protocol.CHUNK_MAGIC, cookie)
            body = self.take(size)
            if kind == protocol.ChunkType.ERROR:
                error = int.from_bytes(body[:4], "big")
            elif kind == protocol.ChunkType.OFFSET_DATA:
                at = int.from_bytes(body[:8], "big")
                begin = at if begin is None else begin
                assert at == begin + len(data)
                data += body[8:]
            else:
                assert kind == protocol.ChunkType.BLOCK_STATUS
                data += body
            if flags & 1:
                return error, b"" if error else bytes(data)

    def read(self, offset: int, length: int, flags: int = 0) -> tuple[int, bytes]:
        return self.answer(self.send(Command.READ, offset, length, flags=flags), length or 1)

    def do(
        self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0
    ) -> int:
        """Carry out a request without an answer but its error."""
        return self.answer(self.send(kind, offset, length, data, flags))[0]

    def status(self, offset: int, length: int, flags: int = 0) -> tuple[int, list[tuple[int, int]]]:
        """The error, and (length, flags) pairs."""
        cookie = self.send(Command.BLOCK_STATUS, offset, length, flags=flags)
        error, body = self.answer(cookie, 1)
        return error, [] if error else list(protocol.EXTENT.iter_unpack(body[4:]))

    def close(self) -> None:
        self.peer.close()


def connect(uri: str | None, *, structured: bool = False) -> Client:
    """A connection to the export that an NBD URI over a Unix socket names."""
    assert uri is not None
    parts = urlparse(uri)
    export = unquote(parts.path.removeprefix("/")).encode()
    return Client(Path(parse_qs(parts.query)["socket"][0]), structured=structured, export=export)
