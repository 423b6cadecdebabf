"""The pool database as one SQLite file, for hosts without XAPI."""

from sm.pool.embedded.pool import EmbeddedPool

__all__ = ["EmbeddedPool"]
