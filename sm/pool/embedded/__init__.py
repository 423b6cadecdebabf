"""The pool database in SQLite or PostgreSQL, for hosts without XAPI."""

from sm.pool.embedded.pool import EmbeddedPool

__all__ = ["EmbeddedPool"]
