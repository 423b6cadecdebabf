"""Hosts of a pool ask one another for what only the host that serves a disk can do."""
