"""How large a QCOW2 file gets, from arithmetic alone."""

from __future__ import annotations

CLUSTER_BITS = 16
"""Clusters of 64 KiB: what `create` makes."""

REFCOUNT_BYTES = 2
"""Refcounts of 16 bits: what `create` makes."""


def empty_size(virtual_size: int) -> int:
    """Bytes of a new image: header, refcount table, one refcount block, L1 table."""
    cluster = 1 << CLUSTER_BITS
    tables = -(-virtual_size // (cluster * (cluster // 8)))
    return (3 + -(-tables * 8 // cluster)) * cluster


def full_size(virtual_size: int) -> int:
    """Bytes of the file of a disk of `virtual_size` bytes that is fully written.

    Header, L1, all L2 tables, all data, and the refcount blocks and table that count these and
    themselves. L1 and refcount table are counted twice: to let one grow, qemu writes a new one
    before it frees the old one.
    """
    cluster = 1 << CLUSTER_BITS
    data = -(-virtual_size // cluster)
    tables = -(-data // (cluster // 8))
    l1 = -(-tables * 8 // cluster)
    fixed = 1 + 2 * max(l1, 1) + tables + data
    per_block = cluster // REFCOUNT_BYTES
    blocks = table = 0
    while True:
        total = fixed + blocks + 2 * table
        more = -(-total // per_block)
        more_table = -(-more * 8 // cluster)
        if (more, more_table) == (blocks, table):
            return total * cluster
        blocks, table = more, more_table
