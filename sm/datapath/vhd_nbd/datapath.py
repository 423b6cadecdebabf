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
from sm.datapath.base import Disk, OutcomeUnknown
from sm.datapath.own_process import NBD, OwnProcessDatapath
from sm.datapath.state import Note
from sm.datapath.vhd_nbd import control
from sm.errors import Unimplemented

CALL_SECONDS = 60.0
"""For a refresh or an end: requests under way, a flush, and opening the chain."""

STATUS_SECONDS = 5.0
MODULE = "sm.datapath.vhd_nbd.process"


class VhdNbdDatapath(OwnProcessDatapath):
    """One process of ours for each disk.

    The leaf is locked against a second writer (flock(2)) as long as it is served for writing.
    """

    name = "vhd_nbd"
    formats: ClassVar[frozenset[str]] = frozenset({VhdUtil.name, RawFormat.name})
    control = "ctl"

    def refresh(self, disk: Disk, chain: Sequence[ImageRef]) -> None:
        """Have the process open the chain anew while its clients wait; also for the same chain.

        Where only parents differ, the leaf is made to name the first of them.
        """
        note = self._require(disk)
        request = {"do": "refresh", "chain": _pairs(chain)}
        control.call(self._socket(disk, self.control), request, CALL_SECONDS)
        self._notes.write(replace(note, chain=tuple(chain)))

    # Notes and processes

    def _prepare(self, note: Note) -> None:
        if note.path is not None:
            raise Unimplemented("a VHD chain is served over NBD only")

    def _command(self, note: Note) -> list[str]:
        wanted = {
            "nbd": str(self._socket(note.disk, NBD)),
            "export": note.disk.vdi,
            "control": str(self._socket(note.disk, self.control)),
            "read_only": note.read_only,
            "chain": _pairs(note.chain),
        }
        return [sys.executable, "-m", MODULE, json.dumps(wanted, ensure_ascii=False)]

    def _adopt(self, note: Note) -> Note | None:
        """Make the note say what the process says of itself: its number, and its chain."""
        try:
            socket = self._socket(note.disk, self.control)
            answer = control.call(socket, {"do": "status"}, STATUS_SECONDS)
        except OutcomeUnknown:
            return note if note.alive else None
        chain = tuple(ImageRef(Path(path), name) for path, name in answer["chain"])
        if (note.pid, note.chain) == (answer["pid"], chain):
            return note
        return self._notes.write(replace(note, chain=chain).of_process(answer["pid"]))

    def _ask_to_end(self, note: Note) -> None:
        control.call(self._socket(note.disk, self.control), {"do": "quit"}, CALL_SECONDS)


def _pairs(chain: Sequence[ImageRef]) -> list[list[str]]:
    return [[str(ref.path), ref.format] for ref in chain]
