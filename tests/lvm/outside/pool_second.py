"""The second host of a pool: does what the first one says."""

from __future__ import annotations

from tests.lvm.outside.pool_host import PoolHost, serve
from tests.support.uml.meeting import RESULT, Meeting


def main() -> None:
    """Play the second host."""
    meeting = Meeting.from_arguments()
    credentials = meeting.hear("outside", "b")
    host = PoolHost(meeting.name, meeting.hear("a", "database"), credentials)
    host.start()
    meeting.tell("started")
    serve(host)
    meeting.tell(RESULT)


if __name__ == "__main__":
    main()
