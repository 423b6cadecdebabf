"""What can go wrong with a pool database, beyond what every client of it must tell apart."""

from __future__ import annotations

from sm.errors import PoolError


class PoolUnreachable(PoolError):
    """The pool database cannot be opened, refuses the session, or was lost."""

    name = "APISession"


class PoolOutcomeUnknown(PoolUnreachable):
    """The pool database was lost while it ended a write: that is done as a whole, or not at all."""

    name = "APIProtocolError"


class PoolHostUnknown(PoolError):
    """The pool has no record of this host."""

    name = "APILocalhost"


class PoolProtocolError(PoolError):
    """The pool service broke off, or answered with what makes no sense."""

    name = "APIProtocolError"


class PoolBusy(PoolError):
    """Other processes kept the pool database locked for too long; the request may be repeated."""

    name = "EGAIN"


class RecordExists(PoolError):
    """There is a record with this UUID already."""


class UnstorableText(PoolError):
    """A text holds characters that no pool database can keep."""

    name = "IllegalXMLChar"
