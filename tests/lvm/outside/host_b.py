"""The second of two hosts: finds the volume, reads and answers, and follows it when it grows."""

from __future__ import annotations

from tests.lvm.outside.host_a import BLOCK, GROUP, MIB, VOLUME
from tests.support.lvm.tools import call, read_direct, size_of, write_durably
from tests.support.uml.meeting import RESULT, Meeting


def main() -> None:
    """Play the second host."""
    meeting = Meeting.from_arguments()
    meeting.hear("a", "written")
    seen = call("lvs", "--noheadings", "--options", "lv_name", GROUP).split()
    call("lvchange", "--activate", "y", VOLUME)
    content = read_direct(VOLUME, 0, BLOCK)
    write_durably(VOLUME, MIB, b"b" * BLOCK)
    meeting.tell("answered")
    meeting.hear("a", "extended")
    before = size_of(VOLUME)
    call("lvchange", "--refresh", VOLUME)
    result = {
        "seen": seen,
        "content": content.decode(),
        "before": before,
        "size": size_of(VOLUME),
        "added": read_direct(VOLUME, 19 * MIB, BLOCK).decode(),
    }
    meeting.tell(RESULT, result)


if __name__ == "__main__":
    main()
