"""The server's side of the handshake: options until the client goes over to an export."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from sm.nbd import protocol
from sm.nbd.export import Export
from sm.nbd.protocol import (
    ALLOCATION,
    ALLOCATION_ID,
    CLIENT_FLAGS,
    EXPORT,
    MAX_OPTION,
    MAX_REQUEST,
    OPTION,
    OPTION_MAGIC,
    HandshakeFlag,
    Option,
    OptionReply,
    ProtocolError,
    TransmissionFlag,
    option_reply,
)

SECONDS = 30.0
"""For each message of a client, so that one that says nothing keeps its place for no longer."""

MAX_OPTIONS = 256
"""No client needs more than ten."""

PREFERRED_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Agreed:
    """What was agreed: whether replies are structured, and whether block status may be asked."""

    structured: bool
    block_status: bool


def negotiate(peer: socket.socket, name: bytes, export: Export) -> Agreed | None:
    """Offer `export` as `name`; None when the client leaves.

    Raises `ProtocolError` where the client does not keep to the protocol, OSError where it is gone.
    """
    peer.settimeout(SECONDS)
    peer.sendall(protocol.greeting())
    (client,) = CLIENT_FLAGS.unpack(receive(peer, CLIENT_FLAGS.size))
    if client & ~int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES):
        raise ProtocolError(f"client flags {client:#x}")
    agreed = _Options(peer, name, export, bool(client & HandshakeFlag.NO_ZEROES)).run()
    peer.settimeout(None)
    return agreed


class _Options:
    """The state between options."""

    def __init__(
        self, peer: socket.socket, name: bytes, export: Export, without_zeroes: bool
    ) -> None:
        self._peer = peer
        self._name = name
        self._export = export
        self._without_zeroes = without_zeroes
        self._structured = False
        self._context = False

    def run(self) -> Agreed | None:
        for _ in range(MAX_OPTIONS):
            magic, option, length = OPTION.unpack(receive(self._peer, OPTION.size))
            if magic != OPTION_MAGIC or length > MAX_OPTION:
                raise ProtocolError(f"option {option} with magic {magic:#x}, {length} bytes")
            data = receive(self._peer, length)
            if option == Option.EXPORT_NAME:
                return self._export_name(data)
            if option == Option.ABORT:
                self._peer.sendall(option_reply(option, OptionReply.ACK))
                return None
            try:
                answer, done = self._answer(option, data)
            except ValueError as error:
                text = str(error).encode()
                answer, done = option_reply(option, OptionReply.ERR_INVALID, text), False
            self._peer.sendall(answer)
            if done:
                return Agreed(self._structured, self._context)
        raise ProtocolError(f"more than {MAX_OPTIONS} options")

    def _answer(self, option: int, data: bytes) -> tuple[bytes, bool]:
        """The whole answer to an option, and whether the handshake is over."""
        ack = option_reply(option, OptionReply.ACK)
        if option == Option.LIST:
            _require(not data, "LIST has no data")
            return option_reply(
                option, OptionReply.SERVER, protocol.listed(self._name)
            ) + ack, False
        if option == Option.STRUCTURED_REPLY:
            _require(not data, "STRUCTURED_REPLY has no data")
            self._structured = True
            return ack, False
        if option in (Option.INFO, Option.GO):
            if protocol.unpack_go(data) != self._name:
                return option_reply(option, OptionReply.ERR_UNKNOWN), False
            infos = (
                protocol.info_export(self._export.size, self._flags()),
                protocol.info_block_size(1, PREFERRED_BLOCK, MAX_REQUEST),
            )
            told = b"".join(option_reply(option, OptionReply.INFO, info) for info in infos)
            return told + ack, option == Option.GO
        if option in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
            return self._meta_context(option, data) + ack, False
        return option_reply(option, OptionReply.ERR_UNSUP), False

    def _meta_context(self, option: int, data: bytes) -> bytes:
        queries = protocol.unpack_queries(data)
        listing = option == Option.LIST_META_CONTEXT
        _require(self._structured, "structured replies first")
        _require(queries.export == self._name, "no such export")
        found = ALLOCATION in queries.names
        if listing:
            found = found or not queries.names or b"base:" in queries.names
        else:
            self._context = found
        if not found:
            return b""
        number = 0 if listing else ALLOCATION_ID
        data = protocol.meta_context(number, ALLOCATION)
        return option_reply(option, OptionReply.META_CONTEXT, data)

    def _export_name(self, data: bytes) -> Agreed:
        if data != self._name:
            raise ProtocolError(f"no export is called {data[:64]!r}")
        tail = b"" if self._without_zeroes else bytes(124)
        self._peer.sendall(EXPORT.pack(self._export.size, self._flags()) + tail)
        return Agreed(self._structured, self._context)

    def _flags(self) -> TransmissionFlag:
        flags = (
            TransmissionFlag.HAS_FLAGS
            | TransmissionFlag.SEND_FLUSH
            | TransmissionFlag.SEND_CACHE
            | TransmissionFlag.CAN_MULTI_CONN
        )
        if self._structured:
            flags |= TransmissionFlag.SEND_DF
        if self._export.read_only:
            return flags | TransmissionFlag.READ_ONLY
        return (
            flags
            | TransmissionFlag.SEND_FUA
            | TransmissionFlag.SEND_TRIM
            | TransmissionFlag.SEND_WRITE_ZEROES
            | TransmissionFlag.SEND_FAST_ZERO
        )


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise ValueError(text)


def receive(peer: socket.socket, length: int) -> bytes:
    """So many bytes from the other side; ConnectionResetError where it leaves before."""
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        count = peer.recv_into(view[done:])
        if count == 0:
            raise ConnectionResetError("the other side left")
        done += count
    return bytes(data)
