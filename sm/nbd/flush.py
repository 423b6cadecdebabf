"""A client that asks one thing: whether all that was written to an export can be made durable."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sm.nbd.handshake import receive
from sm.nbd.protocol import (
    CLIENT_FLAGS,
    GREETING,
    INIT_MAGIC,
    OPTION,
    OPTION_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE,
    SIMPLE_MAGIC,
    Command,
    HandshakeFlag,
    Option,
    TransmissionFlag,
)

EXPORT_SIZES = 10
"""Bytes: the size of the export and its flags, as the answer to `Option.EXPORT_NAME`."""


def flush(path: Path, export: str, seconds: float) -> None:
    """Have the server at socket `path` flush an export.

    OSError with the error that it answers, or when it gives none within `seconds`. Nothing is asked
    of an export without flushes.
    """
    name = export.encode()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(seconds)
        peer.connect(os.fspath(path))
        magic, kind, _ = GREETING.unpack(receive(peer, GREETING.size))
        if (magic, kind) != (INIT_MAGIC, OPTION_MAGIC):
            raise ConnectionError(f"{path} is no NBD server")
        flags = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
        option = OPTION.pack(OPTION_MAGIC, Option.EXPORT_NAME, len(name))
        peer.sendall(CLIENT_FLAGS.pack(flags) + option + name)
        able = TransmissionFlag(int.from_bytes(receive(peer, EXPORT_SIZES)[8:], "big"))
        if TransmissionFlag.SEND_FLUSH in able:
            peer.sendall(REQUEST.pack(REQUEST_MAGIC, 0, Command.FLUSH, 0, 0, 0))
            magic, error, _ = SIMPLE.unpack(receive(peer, SIMPLE.size))
            if magic != SIMPLE_MAGIC:
                raise ConnectionError(f"{path} gives no answer to a flush")
            if error:
                raise OSError(error, os.strerror(error), str(path))
        peer.sendall(REQUEST.pack(REQUEST_MAGIC, 0, Command.DISC, 0, 0, 0))
