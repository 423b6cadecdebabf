"""The first of two hosts: makes a volume, writes to it, and extends it."""

from __future__ import annotations

from pathlib import Path

from tests.support.lvm.tools import call, read_direct, size_of, write_durably
from tests.support.uml.meeting import RESULT, Meeting

DISK = "/dev/ubda"
GROUP = "sm-test-shared"
VOLUME = Path("/dev", GROUP, "volume")
BLOCK = 4096
MIB = 1 << 20


def main() -> None:
    """Play the first host."""
    meeting = Meeting.from_arguments()
    call("vgcreate", "--physicalextentsize", "4m", GROUP, DISK)
    call("lvcreate", "--yes", "--size", "8m", "--name", VOLUME.name, GROUP)
    write_durably(VOLUME, 0, b"a" * BLOCK)
    meeting.tell("written")
    meeting.hear("b", "answered")
    answer = read_direct(VOLUME, MIB, BLOCK)
    call("lvextend", "--size", "20m", VOLUME)
    write_durably(VOLUME, 19 * MIB, b"e" * BLOCK)
    meeting.tell("extended")
    meeting.tell(RESULT, {"size": size_of(VOLUME), "answer": answer.decode()})


if __name__ == "__main__":
    main()
