"""A tapdisk for tests: the real control protocol, over real data. See `fixture` for how it starts.

Arguments: the control directory, and a JSON file of what to do wrong, which may be missing. It
prints its control socket, goes to the background, and ends after the last detach. `double.log` in
the control directory names the requests.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import traceback
from pathlib import Path

from tests.datapath.tapdisk.double.front import unlink
from tests.datapath.tapdisk.double.layout import PATH_SLOT, SIZE, Message
from tests.datapath.tapdisk.double.vbd import Failure, Faults, Vbd
from tests.support.patience import patient

ERROR = 1
PID, ATTACH, OPEN, PAUSE, RESUME, CLOSE, DETACH = 3, 5, 7, 9, 11, 13, 15
LIST, STATS, FORCE_SHUTDOWN, DISK_INFO, COMMIT, QUERY, CANCEL = 19, 21, 23, 28, 31, 33, 35
AT_ONCE = {PID, LIST, STATS}
EXCLUSIVE = {
    *(ATTACH, OPEN, PAUSE, RESUME, CLOSE, DETACH, FORCE_SHUTDOWN),
    *(DISK_INFO, COMMIT, QUERY, CANCEL),
}
AS_ERROR = {OPEN, DISK_INFO, STATS, COMMIT, QUERY}
"""Whose failures come as message 1; the others' come in their own answer."""

READ_ONLY = 0x2
HALF_SECONDS = patient(2)
NO_MINOR = -1


class HungUp(Exception):
    """The caller left; nobody is answered."""


class Server:
    """Answers one request for each connection."""

    def __init__(self, control: Path, faults: Faults) -> None:
        self._control = control
        self._faults = faults
        self._vbds: dict[int, Vbd] = {}
        self._exclusive = threading.Lock()
        self._path = control / f"ctl{os.getpid()}"
        unlink(self._path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen(32)

    @property
    def path(self) -> Path:
        return self._path

    def run(self) -> None:
        while True:
            peer, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                peer.settimeout(HALF_SECONDS)
                data = b""
                while len(data) < SIZE:
                    more = peer.recv(SIZE - len(data))
                    if not more:
                        return
                    data += more
                peer.settimeout(patient(10))
                peer.sendall(self._answer(data, peer))
            except (HungUp, OSError):
                return
        if self._vbds == {} and Message.from_buffer_copy(data).type == DETACH:
            unlink(self._path)
            os._exit(0)

    def _answer(self, data: bytes, peer: socket.socket) -> bytes:
        request = Message.from_buffer_copy(data)
        kind = request.type
        unknown = {COMMIT, QUERY, CANCEL} if self._faults.get("upstream") else set()
        if kind not in (AT_ONCE | EXCLUSIVE) - unknown:
            return failed(ERROR, 0, errno.EINVAL)
        try:
            if b"\0" not in data[PATH_SLOT]:
                raise Failure(errno.EINVAL)
            if kind in AT_ONCE:
                return self._look(request)
            with self._exclusive:
                return self._do(request, peer)
        except Failure as error:
            return failed(ERROR if kind in AS_ERROR else kind + 1, request.cookie, error.number)

    def _look(self, request: Message) -> bytes:
        answer = Message(type=request.type + 1, cookie=request.cookie)
        if request.type == PID:
            answer.u.pid = os.getpid()
            return bytes(answer)
        if request.type == STATS:
            text = self._vbd(request.cookie).statistics().encode()
            answer.u.stat.length = len(text)
            return bytes(answer) + text
        parts = []
        vbds = list(self._vbds.values())
        for number, vbd in enumerate(vbds):
            each = Message(type=LIST + 1, cookie=request.cookie)
            each.u.list.count = len(vbds) - number
            each.u.list.minor = vbd.minor
            each.u.list.state = vbd.state
            each.u.list.path = vbd.argument.encode()
            parts.append(bytes(each))
        answer.u.list.count, answer.u.list.minor = 0, NO_MINOR
        return b"".join((*parts, bytes(answer)))

    def _do(self, request: Message, peer: socket.socket) -> bytes:
        kind, minor, params = request.type, request.cookie, request.u.params
        sys.stderr.write(f"request {kind}\n")
        sys.stderr.flush()
        answer = Message(type=kind + 1, cookie=minor)
        path = params.path.decode()
        if kind == ATTACH:
            if minor in self._vbds:
                raise Failure(errno.EEXIST)
            self._vbds[minor] = Vbd(self._control, minor, self._faults)
            return bytes(answer)
        vbd = self._vbd(minor, errno.EINVAL if kind == OPEN else errno.ENODEV)
        if kind in (OPEN, DISK_INFO):
            if kind == OPEN:
                if params.prt_devnum != -1:
                    raise Failure(errno.EINVAL)
                vbd.open(path, read_only=bool(params.flags & READ_ONLY))
            answer.u.image.sectors, answer.u.image.sector_size = vbd.sectors, 512
        elif kind == PAUSE:
            if not vbd.pause(peer):
                raise HungUp
        elif kind == RESUME:
            vbd.resume(path)
        elif kind in (CLOSE, FORCE_SHUTDOWN):
            vbd.close()
            answer.type = CLOSE + 1
        elif kind == DETACH:
            vbd.detach()
            del self._vbds[minor]
        elif kind == COMMIT:
            vbd.commit(path)
        elif kind == QUERY:
            done, total, status = vbd.query()
            answer.u.query.current, answer.u.query.total = done, total
            answer.u.query.status = status.encode()
        else:
            try:
                vbd.cancel(wait=bool(params.flags))
            except Failure as error:
                if error.number == errno.ECANCELED:
                    return failed(ERROR, minor, error.number)
                raise
        return bytes(answer)

    def _vbd(self, minor: int, missing: int = errno.ENODEV) -> Vbd:
        if minor not in self._vbds:
            raise Failure(missing)
        return self._vbds[minor]


def failed(kind: int, cookie: int, number: int) -> bytes:
    """An answer that is an error."""
    answer = Message(type=kind, cookie=cookie)
    answer.u.response.error = number
    return bytes(answer)


def give_up(failure: threading.ExceptHookArgs) -> None:
    """A fault of the double itself ends it, with a word in its log."""
    traceback.print_exception(failure.exc_value)
    os._exit(70)


def main() -> None:
    threading.excepthook = give_up
    control, faults = map(Path, sys.argv[1:])
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    server = Server(control, Faults(faults))
    sys.stdout.write(f"{server.path}\n")
    sys.stdout.flush()
    log = os.open(control / "double.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number, descriptor in enumerate((nothing, nothing, log)):
        os.dup2(descriptor, number)
    server.run()


if __name__ == "__main__":
    main()
