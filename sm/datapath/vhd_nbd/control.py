"""How the server process of a disk is told what to do: one line of JSON each way, on a Unix socket.

A request is an object with `do`; the answer has `ok`, and what was asked for or `error`.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sm.datapath.base import DatapathFailed, OutcomeUnknown

MAX_LINE = 1 << 20
"""Bytes; a chain of 30 images has names of 120 KiB at most."""

READ_SECONDS = 10.0
"""For a request to come in, so that a silent client does not keep others out."""

Request = dict[str, Any]
Answer = dict[str, Any]


def call(path: Path, request: Request, seconds: float) -> Answer:
    """Ask the process at `path`; `DatapathFailed` where it refuses.

    `OutcomeUnknown` when it cannot be reached or gives no answer within `seconds`.
    """
    deadline = time.monotonic() + seconds
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(seconds)
            peer.connect(str(path))
            peer.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_read_line(peer, deadline))
    except (OSError, ValueError) as error:
        raise OutcomeUnknown(f"{path}: {request['do']}: {error}") from error
    if not isinstance(answer, dict) or not answer.get("ok"):
        refused = answer.get("error") if isinstance(answer, dict) else answer
        raise DatapathFailed(f"{request['do']}: {refused}")
    return answer


def answer_one(listener: socket.socket, act: Callable[[Request], Answer]) -> None:
    """Take one connection and answer its request; what is no request is refused or dropped."""
    peer, _ = listener.accept()
    with peer:
        try:
            answer = act(_request(_read_line(peer, time.monotonic() + READ_SECONDS)))
        except ValueError as error:
            answer = {"ok": False, "error": str(error)}
        except OSError:
            return
        _send(peer, answer)


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, in place of a stale one."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def _request(line: bytes) -> Request:
    request = json.loads(line)
    if not isinstance(request, dict) or not isinstance(request.get("do"), str):
        raise ValueError("not a request")
    return request


def _send(peer: socket.socket, answer: Answer) -> None:
    try:
        peer.settimeout(READ_SECONDS)
        peer.sendall(json.dumps(answer).encode() + b"\n")
    except OSError:
        return  # who asked has gone; it will ask again


def _read_line(peer: socket.socket, deadline: float) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or len(line) > MAX_LINE:
            raise TimeoutError("no line in time, or too long a one")
        peer.settimeout(left)
        data = peer.recv(65536)
        if not data:
            raise ConnectionResetError("closed in the middle of a line")
        line += data
    return bytes(line)
