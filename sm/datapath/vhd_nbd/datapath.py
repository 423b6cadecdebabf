"""The datapath of VHD chains where there is no tapdisk: a process of our own for each disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from sm.cowutil.base import ImageRef
from sm.cowutil.raw import RawFormat
from sm.cowutil.vhd.util import VhdUtil
from sm.datapath.base import Disk, Gauge, GrowingDatapath, OutcomeUnknown, Statistics
from sm.datapath.own_process import NBD, OwnProcessDatapath
from sm.datapath.state import Note
from sm.datapath.vhd_nbd import control
from sm.datapath.vhd_nbd.gauge import VhdNbdGauge
from sm.errors import Unimplemented

CALL_SECONDS = 60.0
"""For a refresh or an end: requests under way, a flush, and opening the chain."""

STATUS_SECONDS = 5.0
MODULE = "sm.datapath.vhd_nbd.process"


class VhdNbdDatapath(OwnProcessDatapath, GrowingDatapath):
    """One process of ours for each disk.

    The leaf is locked against a second writer (flock(2)) as long as it is served for writing.
    """

    name = "vhd_nbd"
    formats: ClassVar[frozenset[str]] = frozenset({VhdUtil.name, RawFormat.name})
    control_suffix = "ctl"

    def refresh(self, disk: Disk, chain: Sequence[ImageRef]) -> None:
        """Have the process open the chain anew while its clients wait; also for the same chain.

        Where only parents differ, the leaf is made to name the first of them.
        """
        note = self._require(disk)
        self._ask(disk, {"do": "refresh", "chain": _pairs(chain)})
        self._notes.write(replace(note, chain=tuple(chain)))

    def pause(self, disk: Disk, seconds: float | None = None) -> None:
        """Have the process close all files; it keeps its clients, and knows that it is paused."""
        note = self._require(disk)
        self._ask(disk, {"do": "pause", "seconds": seconds})
        self._notes.write(replace(note, paused=True))

    def resume(self, disk: Disk, chain: Sequence[ImageRef]) -> None:
        """Have the process open a chain, whose images must name each other as it says."""
        note = self._require(disk)
        if note.paused:
            self._ask(disk, {"do": "resume", "chain": _pairs(chain)})
            self._notes.write(replace(note, chain=tuple(chain), paused=False))

    def statistics(self, disk: Disk) -> Statistics:
        """What the process counted."""
        self._require(disk)
        answer = self._ask(disk, {"do": "status"})
        return Statistics(**answer["traffic"], clients=answer["clients"])

    def gauge(self, disk: Disk) -> Gauge:
        """What the process says when it is asked."""
        self._require(disk)
        return VhdNbdGauge(self._socket(disk, self.control_suffix))

    # Notes and processes

    def _prepare(self, note: Note) -> None:
        if note.path is not None:
            raise Unimplemented("a VHD chain is served over NBD only")

    def _command(self, note: Note) -> list[str]:
        wanted = {
            "nbd": str(self._socket(note.disk, NBD)),
            "export": note.disk.vdi,
            "control": str(self._socket(note.disk, self.control_suffix)),
            "read_only": note.read_only,
            "grows": note.pace is not None,
            "lost": str(self._losses.place(note.disk.vdi)),
            "chain": _pairs(note.chain),
        }
        return [sys.executable, "-m", MODULE, json.dumps(wanted, ensure_ascii=False)]

    def _adopt(self, note: Note) -> Note | None:
        """Make the note say what the process says of itself."""
        try:
            socket = self._socket(note.disk, self.control_suffix)
            answer = control.call(socket, {"do": "status"}, STATUS_SECONDS)
        except OutcomeUnknown:
            return note if note.alive else None
        chain = tuple(ImageRef(Path(path), name) for path, name in answer["chain"])
        found = replace(note, chain=chain, paused=answer["paused"])
        if found == note and note.pid == answer["pid"]:
            return note
        return self._notes.write(found.of_process(answer["pid"]))

    def _ask_to_end(self, note: Note) -> None:
        self._ask(note.disk, {"do": "quit"})

    def _ask(self, disk: Disk, request: control.Request) -> control.Answer:
        return control.call(self._socket(disk, self.control_suffix), request, CALL_SECONDS)


def _pairs(chain: Sequence[ImageRef]) -> list[list[str]]:
    return [[str(ref.path), ref.format] for ref in chain]
