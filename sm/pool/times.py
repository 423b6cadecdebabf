"""Snapshot times: one text form for all that clients and pool databases use."""

from __future__ import annotations

from datetime import UTC, datetime

from sm.errors import InvalidArgument

NO_TIME = "19700101T00:00:00Z"
"""What XenAPI says where there is no time."""


def canonical_time(text: str) -> str:
    """`text`, ISO 8601 in any form, as `20240131T12:00:00Z`; empty for no time and for `NO_TIME`.

    Without a zone it is taken as UTC. Raises `InvalidArgument`.
    """
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"{text!r} is not an ISO 8601 time") from error
    # strftime("%Y") does not pad years before 1000.
    found = f"{moment.year:04}{moment:%m%dT%H:%M:%SZ}"
    return "" if found == NO_TIME else found
