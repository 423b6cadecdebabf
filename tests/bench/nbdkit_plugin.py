"""A plugin for nbdkit's Python interpreter: one raw file, to be read."""

import os

API_VERSION = 2
_given: dict[str, str] = {}


def config(key, value):
    """`file=PATH`."""
    _given[key] = value


def thread_model():
    """Requests may be answered in parallel."""
    import nbdkit

    return nbdkit.THREAD_MODEL_PARALLEL


def open(readonly):
    """The file, opened."""
    return os.open(_given["file"], os.O_RDONLY)


def get_size(handle):
    """Bytes."""
    return os.fstat(handle).st_size


def pread(handle, buffer, offset, flags):
    """Fill the buffer."""
    os.preadv(handle, [buffer], offset)
