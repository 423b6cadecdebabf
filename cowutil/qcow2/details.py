"""What a QCOW2 image tells of itself beyond what every image has, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sm.cowutil.base import Plain
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.header import read_header
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.usage import read_usage

COMPRESSION = {layout.COMPRESSION_ZLIB: "zlib", layout.COMPRESSION_ZSTD: "zstd"}


def details(path: Path) -> Mapping[str, Plain]:
    """Version, features, space by its refcounts, internal snapshots, persistent bitmaps."""
    with Source(path) as source:
        header = read_header(source)
    usage = read_usage(path)
    return {
        "version": header.version,
        "refcount_bits": 1 << header.refcount_order,
        "compression": COMPRESSION[header.compression],
        "extended_l2": header.extended,
        "clusters_in_use": usage.physical // header.cluster_size,
        "used_size": usage.used_size,
        "snapshots": [
            {
                "id": snapshot.identifier,
                "name": snapshot.name,
                "created": snapshot.seconds,
                "virtual_size": snapshot.virtual_size,
                "vm_state_size": snapshot.vm_state_size,
            }
            for snapshot in usage.snapshots
        ],
        "bitmaps": [
            {
                "name": bitmap.name,
                "granularity": bitmap.granularity,
                "in_use": bitmap.in_use,
                "recording": bitmap.recording,
            }
            for bitmap in usage.bitmaps
        ],
    }
