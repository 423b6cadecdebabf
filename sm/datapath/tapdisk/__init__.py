"""Disks served by blktap's tapdisk: one process each, over its control socket and NBD."""
