"""QCOW2 and raw for the double: a real qemu-storage-daemon that follows the links in the images."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.datapath.tapdisk.double.front import Forwarded, unlink
from tests.support.patience import until

LEAF = "leaf"
JOB = "commit"

# A child dies with the thread that started it, so that one has to live on.
_keeper = ThreadPoolExecutor(max_workers=1)


class QemuError(Exception):
    """The daemon refused."""


class Qmp:
    """A connection to a monitor."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rwb")
        self._file.readline()
        self.call("qmp_capabilities")

    def call(self, command: str, **arguments: object) -> Any:
        request = {"execute": command, "arguments": arguments}
        self._file.write(json.dumps(request).encode() + b"\n")
        self._file.flush()
        while line := self._file.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise QemuError(answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]
        raise QemuError("the monitor closed")


class QemuChain:
    """A chain that is open in a child; `export` is its disk."""

    commits = True

    def __init__(self, driver: str, leaf: Path, folder: Path, *, read_only: bool) -> None:
        if not leaf.exists():
            raise FileNotFoundError(leaf)
        self.commits = driver == "qcow2"
        unique = f"q{os.getpid()}"
        monitor, nbd = folder / f"{unique}.qmp", folder / f"{unique}.nbd"
        for path in (monitor, nbd):
            unlink(path)
        node = {
            "driver": driver,
            "node-name": LEAF,
            "file": {"driver": "file", "filename": str(leaf)},
            "read-only": read_only,
            "discard": "unmap",
        }
        export = {"type": "nbd", "id": "e", "node-name": LEAF, "name": "vdi"}
        argv = [
            *("setpriv", "--pdeathsig", "KILL", "qemu-storage-daemon"),
            *("--chardev", f"socket,id=m,path={escaped(monitor)},server=on,wait=off"),
            *("--monitor", "chardev=m,mode=control"),
            *("--blockdev", json.dumps(node)),
            *("--nbd-server", f"addr.type=unix,addr.path={escaped(nbd)}"),
            *("--export", json.dumps({**export, "writable": not read_only})),
        ]
        self._child = _keeper.submit(
            subprocess.Popen, argv, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        ).result()
        self.export = Forwarded(self._ready(nbd), "vdi", read_only=read_only)
        self._qmp = Qmp(monitor)
        self._leaf = leaf

    def close(self) -> None:
        """Flush, end a job, close all images."""
        if self.job() is not None:
            self.cancel()
            while (job := self.job()) is not None and job["status"] != "concluded":
                time.sleep(0.005)
        self.export.close()
        with suppress(QemuError):
            self._qmp.call("quit")
        self._child.wait()

    def chain(self) -> list[str]:
        """The files that are open, leaf first, each as the one above refers to it."""
        nodes = self._qmp.call("query-named-block-nodes", flat=False)
        image = next(node["image"] for node in nodes if node["node-name"] == LEAF)
        found = []
        while image is not None:
            found.append(image["filename"])
            image = image.get("backing-image")
        return found

    def commit(self, top: str, base: str, speed: int) -> None:
        """Begin to merge, by file names."""
        named = {node["file"]: node["node-name"] for node in self._formats()}
        self._qmp.call(
            "block-commit",
            **{
                "job-id": JOB,
                "device": LEAF,
                "top-node": named[top],
                "base-node": named[base],
                "backing-file": Path(base).name,
                "speed": speed,
                "auto-dismiss": False,
            },
        )

    def job(self) -> dict[str, Any] | None:
        jobs: list[dict[str, Any]] = self._qmp.call("query-jobs")
        return next((job for job in jobs if job["id"] == JOB), None)

    def cancel(self) -> None:
        with suppress(QemuError):  # it may have ended by itself
            self._qmp.call("job-cancel", id=JOB)

    def dismiss(self) -> None:
        self._qmp.call("job-dismiss", id=JOB)

    def _formats(self) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = self._qmp.call("query-named-block-nodes", flat=True)
        return [node for node in nodes if node["drv"] != "file"]

    def _ready(self, path: Path) -> Path:
        def answers() -> bool:
            if self._child.poll() is not None:
                assert self._child.stderr is not None
                raise OSError(5, self._child.stderr.read().decode())
            with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
                probe.connect(str(path))
                return True
            return False

        until(answers, "the start of the daemon of the double")
        return path


def escaped(path: Path) -> str:
    """A path within an option of several."""
    return str(path).replace(",", ",,")
