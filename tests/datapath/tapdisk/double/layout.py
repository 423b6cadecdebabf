"""Tapdisk's messages as C structs with natural alignment, written apart from the client's."""

from __future__ import annotations

import ctypes

TEXT = 256


class Response(ctypes.Structure):
    _fields_ = (("error", ctypes.c_int32), ("message", ctypes.c_char * TEXT))


class Params(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint32),
        ("devnum", ctypes.c_uint32),
        ("domid", ctypes.c_uint32),
        ("path", ctypes.c_char * TEXT),
        ("prt_devnum", ctypes.c_int32),
        ("req_timeout", ctypes.c_uint16),
        ("secondary", ctypes.c_char * TEXT),
    )


class Image(ctypes.Structure):
    _fields_ = (
        ("sectors", ctypes.c_uint64),
        ("sector_size", ctypes.c_uint32),
        ("info", ctypes.c_uint32),
    )


class Listed(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int32),
        ("minor", ctypes.c_int32),
        ("state", ctypes.c_int32),
        ("path", ctypes.c_char * TEXT),
    )


class Stat(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint16),
        ("cookie", ctypes.c_uint16),
        ("length", ctypes.c_uint64),
    )


class Query(ctypes.Structure):
    _fields_ = (
        ("current", ctypes.c_uint64),
        ("total", ctypes.c_uint64),
        ("status", ctypes.c_char * TEXT),
    )


class Blkif(ctypes.Structure):
    """Only because it makes the union as large as it is."""

    _fields_ = (
        ("domid", ctypes.c_uint32),
        ("devid", ctypes.c_uint32),
        ("gref", ctypes.c_uint32 * 8),
        ("order", ctypes.c_uint32),
        ("proto", ctypes.c_uint32),
        ("pool", ctypes.c_char * TEXT),
        ("port", ctypes.c_uint32),
        ("poll_duration", ctypes.c_uint32),
        ("poll_idle_threshold", ctypes.c_uint32),
    )


class Union(ctypes.Union):
    _fields_ = (
        ("pid", ctypes.c_int32),
        ("response", Response),
        ("params", Params),
        ("image", Image),
        ("list", Listed),
        ("stat", Stat),
        ("query", Query),
        ("blkif", Blkif),
    )


class Message(ctypes.Structure):
    _fields_ = (("type", ctypes.c_uint16), ("cookie", ctypes.c_uint16), ("u", Union))


SIZE = ctypes.sizeof(Message)
PATH_SLOT = slice(20, 20 + TEXT)
"""What of every request must contain a NUL."""
