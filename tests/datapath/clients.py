"""Users of a served disk: qemu-io over NBD, and one that writes and verifies all the time."""

from __future__ import annotations

import json
import random
import subprocess
import threading
from types import TracebackType
from typing import Any

from tests.support.patience import patient, until

BLOCK = 64 << 10


def qemu_io(uri: str | None, *commands: str) -> str:
    """Run qemu-io commands over NBD."""
    assert uri is not None
    ended = subprocess.run(
        ["qemu-io", "-f", "raw", *(part for each in commands for part in ("-c", each)), uri],
        capture_output=True,
        text=True,
        check=True,
        timeout=patient(60),
    )
    assert "failed" not in ended.stdout.lower(), ended.stdout
    return ended.stdout


def export_info(uri: str | None) -> dict[str, Any]:
    """What libnbd learns of the one export that an NBD URI names."""
    assert uri is not None
    ended = subprocess.run(
        ["nbdinfo", "--json", uri], capture_output=True, check=True, timeout=patient(60)
    )
    (found,) = json.loads(ended.stdout)["exports"]
    return dict(found)


def content(uri: str | None, size: int) -> bytes:
    """The whole disk, read with libnbd's own copying tool."""
    assert uri is not None
    ended = subprocess.run(
        ["nbdcopy", uri, "-"], capture_output=True, check=True, timeout=patient(60)
    )
    assert len(ended.stdout) == size
    return ended.stdout


class Writer:
    """Writes and reads back over one connection until stopped; keeps what the disk must hold.

    `data` is what it holds at first.
    """

    def __init__(self, uri: str | None, data: bytes, seed: int = 0) -> None:
        assert uri is not None
        blocks = len(data) // BLOCK
        self.uri = uri
        self.data = bytearray(data)
        self.rounds = 0
        self.problem: BaseException | None = None
        self._blocks = blocks
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._shell = subprocess.Popen(
            ["qemu-io", "-f", "raw", uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            # The disk may be paused for ever.
            self._shell.kill()
            self._shell.wait()
            return
        self.stop()

    def go_on(self, rounds: int) -> None:
        """Wait until so many more rounds were done."""
        goal = self.rounds + rounds
        until(lambda: self.rounds >= goal or self.problem is not None)

    def stop(self) -> None:
        """Finish the round, flush, disconnect; raises what went wrong."""
        self._stop.set()
        self._thread.join(patient(60))
        if self._shell.poll() is None:
            self._shell.communicate("flush\nquit\n", timeout=patient(30))
        if self.problem is not None:
            raise self.problem

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self._round()
                self.rounds += 1
        except (AssertionError, OSError, ValueError) as error:
            self.problem = error

    def _round(self) -> None:
        first = self._random.randrange(self._blocks)
        count = self._random.randint(1, min(4, self._blocks - first))
        byte = self._random.randint(1, 255)
        self._say(f"write -P {byte} {first * BLOCK} {count * BLOCK}", "wrote")
        self.data[first * BLOCK : (first + count) * BLOCK] = bytes([byte]) * (count * BLOCK)
        look = self._random.randrange(self._blocks) * BLOCK
        self._say(f"read -P {self.data[look]} {look} {BLOCK}", "read")

    def _say(self, command: str, expected: str) -> None:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(command + "\n")
        self._shell.stdin.flush()
        answer = self._shell.stdout.readline().removeprefix("qemu-io> ")
        assert answer.startswith(expected), f"{command}: {answer}"
        self._shell.stdout.readline()
