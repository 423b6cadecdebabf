"""One VBD of the double: its states, its open chain, its commit, and its faults."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sm.cowutil.errors import ImageError
from sm.nbd.server import NbdServer
from tests.datapath.tapdisk.double.front import AnyExport, Counting, unlink
from tests.datapath.tapdisk.double.qemu import QemuChain, QemuError

if TYPE_CHECKING:
    from tests.datapath.tapdisk.double.vhd import VhdChain

CLOSED, WAITING, PAUSED, FAILED = 0x2, 0x14, 0x2A, 0x22A
FOR_EVER = 1e6
DRIVERS = {"vhd": 4, "qcow2": 6, "aio": 0}


class Failure(Exception):
    """A request fails with `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


class Faults:
    """What to do wrong, from a file that may change at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._used: dict[str, int] = {}

    def get(self, name: str) -> int:
        """The number given for a fault; 0 without."""
        try:
            return int(json.loads(self._path.read_text()).get(name, 0))
        except FileNotFoundError:
            return 0

    def take(self, name: str) -> bool:
        """Whether a fault that happens so many times is to happen now."""
        self._used[name] = self._used.get(name, 0) + 1
        return self._used[name] <= self.get(name)

    @property
    def generation(self) -> int:
        return self.get("generation") or 4


def die() -> None:
    """As by a null pointer."""
    os.kill(os.getpid(), signal.SIGKILL)


class Vbd:
    """Raises `Failure` where tapdisk answers with an errno."""

    def __init__(self, control: Path, minor: int, faults: Faults) -> None:
        self._control = control
        self.minor = minor
        self.state = 0
        self.argument = ""
        self._faults = faults
        self._read_only = False
        self._closing = threading.Lock()
        self._chain: QemuChain | VhdChain | None = None
        try:
            self._marker = os.open(control / "tapdisk" / f"tapdisk-{minor}", os.O_RDWR)
        except FileNotFoundError as error:
            raise Failure(errno.ENOENT) from error
        fcntl.flock(self._marker, fcntl.LOCK_EX)

    # Life

    def open(self, argument: str, *, read_only: bool) -> int:
        """Gives the sectors."""
        if self.argument:
            raise Failure(errno.EALREADY)
        self._read_only = read_only
        self._chain = self._opened(argument)
        self._front = Counting(self._chain.export)
        self._server = NbdServer(AnyExport("any"), self._front)
        self._server.listen(self._nbd)
        self._server.start()
        self.argument, self.state = argument, 0
        return self.sectors

    def close(self) -> None:
        if self.argument:
            self._server.stop()
            unlink(self._nbd)
        with self._closing:
            if self._chain is not None:
                self._chain.close()
            self._chain, self.argument, self.state = None, "", CLOSED

    def detach(self) -> None:
        if self.argument:
            raise Failure(errno.EBUSY)
        os.close(self._marker)

    @property
    def sectors(self) -> int:
        return self._front.size // 512

    def statistics(self) -> str:
        images = []
        if self._chain is not None:
            kind = self.argument.partition(":")[0]
            for path in self._chain.chain()[: None if kind == "vhd" else 1]:
                driver = {"type": DRIVERS[kind], "name": kind, "status": None}
                images.append({"name": path, "hits": [0, 0], "fail": [0, 0], "driver": driver})
        found = {
            "name": self.argument,
            "secs": self._front.sectors if self.argument else [0, 0],
            "images": images,
            "FIXME_enospc_redirect_count": 0,
            "nbd_mirror_failed": 0,
            "reqs_outstanding": 0,
            "read_caching": "false",
        }
        return json.dumps(found)

    # Pause

    def pause(self, peer: socket.socket) -> bool:
        """False when the caller hung up before the end."""
        if self.state & 0x20:
            return True
        self.state = WAITING
        self._server.pause(FOR_EVER)
        while self._faults.get("frozen_pause"):
            if _hung_up(peer):
                # The request stays, and is carried out when the last I/O ends.
                threading.Thread(target=self._pause_later, daemon=True).start()
                return False
            time.sleep(0.01)
        self._paused()
        return True

    def _pause_later(self) -> None:
        while self._faults.get("frozen_pause"):
            time.sleep(0.01)
        self._paused()

    def _paused(self) -> None:
        with self._closing:
            if self.state == WAITING and self._chain is not None:
                self._chain.close()
                self._chain, self.state = None, PAUSED

    def resume(self, argument: str) -> None:
        if not self.state & 0x20:
            raise Failure(errno.EINVAL)
        argument = argument or self.argument
        if self._faults.take("resume_fails"):
            self.state = FAILED
            raise Failure(errno.EIO)
        try:
            chain = self._opened(argument)
        except Failure:
            self.state = FAILED
            raise
        if chain.export.size != self._front.size:
            chain.close()
            self.argument, self.state = argument, FAILED
            raise Failure(errno.EMEDIUMTYPE)
        self.argument, self._chain, self.state = argument, chain, 0
        self._front.inner = chain.export
        self._server.resume()

    # Commit

    def commit(self, path: str) -> None:
        chain = self._committing()
        if chain.job() is not None:
            raise Failure(errno.EINVAL)
        names, generation = chain.chain(), self._faults.generation
        if path not in names[1:-1]:
            if generation == 1:
                raise Failure(errno.EINVAL)
            if generation == 2:
                die()
            return
        if self._faults.get("no_job"):
            return
        base = names[-1] if generation == 1 else names[names.index(path) + 1]
        try:
            chain.commit(path, base, self._faults.get("speed"))
        except QemuError as error:
            raise Failure(errno.EPERM) from error

    def query(self) -> tuple[int, int, str]:
        chain = self._committing()
        if self._faults.get("query_hangs"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if self._faults.get("dies"):
            die()
        job = chain.job()
        if job is None:
            if self._faults.generation == 3:
                raise Failure(errno.ENOENT)
            return 0, 0, "undefined"
        if self._faults.get("job_fails") and job["status"] == "running":
            chain.cancel()
        if job["status"] == "concluded":
            if self._faults.get("dies_at_end"):
                die()
            chain.dismiss()
            if self._faults.get("end_unseen"):
                return 0, 0, "undefined"
        done, total = job["current-progress"], job["total-progress"]
        if job["status"] == "concluded" and self._faults.get("short_end"):
            done -= 65536
        return done, total, job["status"]

    def cancel(self, *, wait: bool) -> None:
        chain = self._committing()
        job = chain.job()
        if self._faults.get("cancel_busy"):
            raise Failure(errno.EBUSY)
        if job is None or job["status"] == "concluded":
            return
        chain.cancel()
        while wait and (job := self._job_of(chain)) and job["status"] != "concluded":
            time.sleep(0.005)
        if (wait and self._faults.generation < 3) or self._faults.get("cancel_as_error"):
            raise Failure(errno.ECANCELED)

    @staticmethod
    def _job_of(chain: QemuChain) -> dict[str, Any] | None:
        return chain.job()

    def _committing(self) -> QemuChain:
        if self._chain is None:
            raise Failure(errno.ENODEV)
        if not isinstance(self._chain, QemuChain) or not self._chain.commits:
            raise Failure(errno.EOPNOTSUPP)
        return self._chain

    # Images

    def _opened(self, argument: str) -> QemuChain | VhdChain:
        kind, colon, path = argument.partition(":")
        if not colon:
            raise Failure(errno.EINVAL)
        try:
            if kind == "vhd":
                from tests.datapath.tapdisk.double.vhd import VhdChain  # numpy is slow to import

                return VhdChain(Path(path), read_only=self._read_only)
            if kind in ("qcow2", "aio"):
                driver = "raw" if kind == "aio" else kind
                return QemuChain(driver, Path(path), self._control, read_only=self._read_only)
        except ImageError as error:
            raise Failure(errno.EINVAL) from error
        except OSError as error:
            raise Failure(error.errno or errno.EIO) from error
        raise Failure(errno.ENOENT)

    @property
    def _nbd(self) -> Path:
        return self._control / f"nbd{os.getpid()}.{self.minor}"


def _hung_up(peer: socket.socket) -> bool:
    try:
        return peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
