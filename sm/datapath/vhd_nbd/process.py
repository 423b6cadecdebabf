"""The process that serves one disk: `python -m sm.datapath.vhd_nbd.process REQUEST`.

`REQUEST` is JSON: `nbd` and `control`, the paths of two sockets, `export`, the name of the disk for
its clients, `read_only`, `grows`, whether writes wait where the volume of the leaf has no room,
`lost`, the file that says so when what was written may be lost, and `chain`, (path, format) pairs,
uppermost first. The command returns
when all is open and clients may connect; a process in the background goes on. It ends on SIGTERM or
SIGINT, or when it is told to, with everything that it acknowledged on the storage.

Exit code 0: ended after a good flush, or is ready in the background. 1: the reason is on standard
error. A kill leaves what a crash leaves; see `sm.cowutil.vhd.writer`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageError
from sm.datapath.losses import note_at
from sm.datapath.vhd_nbd.control import Answer, Request, answer_one, listen

if TYPE_CHECKING:
    from sm.datapath.vhd_nbd.service import Service

ENDING = (signal.SIGTERM, signal.SIGINT)


def main(argv: list[str]) -> int:
    """Serve until told to end."""
    # Before numpy is imported: its threads would not survive the fork, and are never used.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from sm.datapath.vhd_nbd.service import Service  # noqa: PLC0415 - numpy, as above

    try:
        wanted = json.loads(argv[1])
        chain = parse_chain(wanted["chain"])
        service = Service(
            chain,
            Path(wanted["nbd"]),
            wanted["export"],
            read_only=bool(wanted["read_only"]),
            grows=bool(wanted["grows"]),
            lost=partial(note_at, Path(wanted["lost"])),
        )
        listener = listen(Path(wanted["control"]))
    except (ImageError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if os.fork():
        # Without the cleaning up of the interpreter: all that is open is the child's.
        os._exit(0)
    _leave_terminal()
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    service.start()
    control = _Control(service, listener)
    threading.Thread(target=control.run, name="control", daemon=True).start()
    signal.sigwait(ENDING)
    try:
        service.stop()
    except OSError:
        # Nobody is left to be told but who looks at the exit code; `quit` tells its caller.
        return 1
    return 0


def parse_chain(pairs: list[Any]) -> tuple[ImageRef, ...]:
    """A chain from JSON; ValueError for anything else."""
    try:
        chain = tuple(ImageRef(Path(path), str(name)) for path, name in pairs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a chain: {pairs!r:.200}") from error
    if not chain:
        raise ValueError("an empty chain")
    return chain


class _Control:
    """Answers requests, one at a time."""

    def __init__(self, service: Service, listener: socket.socket) -> None:
        self._service = service
        self._listener = listener
        self._ending = False

    def run(self) -> None:
        while not self._ending:
            answer_one(self._listener, self._act)
        # Only now that the answer is out, which may say that something was not made durable.
        os.kill(os.getpid(), signal.SIGTERM)

    def _act(self, request: Request) -> Answer:
        from sm.datapath.vhd_nbd.service import Refused  # noqa: PLC0415 - as above

        try:
            return self._do(request)
        except (ImageError, OSError, Refused) as error:
            return {"ok": False, "error": str(error)}

    def _do(self, request: Request) -> Answer:
        match request["do"]:
            case "status":
                chain = [[str(ref.path), ref.format] for ref in self._service.chain]
                return {
                    "ok": True,
                    "pid": os.getpid(),
                    "chain": chain,
                    "paused": self._service.paused,
                    "clients": self._service.clients,
                    "traffic": asdict(self._service.traffic),
                }
            case "level":
                level = self._service.level()
                return {"ok": True, "level": level, "waiting": self._service.waiting}
            case "pause":
                seconds = request.get("seconds")
                self._service.pause(seconds if isinstance(seconds, int | float) else None)
                return {"ok": True}
            case "resume":
                self._service.resume(parse_chain(request.get("chain", [])))
                return {"ok": True}
            case "refresh":
                self._service.refresh(parse_chain(request.get("chain", [])))
                return {"ok": True}
            case "quit":
                self._ending = True
                self._service.stop()
                return {"ok": True}
        return {"ok": False, "error": f"cannot {request['do']!r:.100}"}


def _leave_terminal() -> None:
    """Be nobody's child: a session of our own, and nothing inherited to write to."""
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
