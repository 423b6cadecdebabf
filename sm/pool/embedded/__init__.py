"""The pool database as one SQLite file, for machines without XAPI."""
