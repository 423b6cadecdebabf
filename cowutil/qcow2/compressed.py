"""Decompressing clusters, never to more than one cluster."""

from __future__ import annotations

import zlib
from pathlib import Path

from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.qcow2 import layout

DEFLATE_WINDOW = -12
"""Raw deflate with a window of 4 KiB; from the format's description."""


def decompress(path: Path, kind: int, data: bytes, offset: int, cluster_size: int) -> bytes:
    """The cluster whose stream begins at byte `offset` of the file; `data` may go on behind it.

    Raises `ImageCorrupt` when it does not give exactly one cluster.
    """
    if kind == layout.COMPRESSION_ZLIB:
        try:
            plain = zlib.decompressobj(DEFLATE_WINDOW).decompress(data, cluster_size)
        except zlib.error as error:
            raise ImageCorrupt(path, "compressed cluster", offset, str(error)) from error
    else:
        plain = _zstd(path, data, offset, cluster_size)
    if len(plain) != cluster_size:
        problem = f"gives {len(plain)} bytes instead of {cluster_size}"
        raise ImageCorrupt(path, "compressed cluster", offset, problem)
    return plain


def _zstd(path: Path, data: bytes, offset: int, cluster_size: int) -> bytes:
    import zstandard  # noqa: PLC0415 - only few imported images need it

    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            plain: bytes = reader.read(cluster_size)
    except zstandard.ZstdError as error:
        raise ImageCorrupt(path, "compressed cluster", offset, str(error)) from error
    return plain
