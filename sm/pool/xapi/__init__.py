"""The pool database of a real XAPI, over its local socket."""

from sm.pool.xapi.pool import XapiPool

__all__ = ["XapiPool"]
