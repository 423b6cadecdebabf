"""Disks in use on LVM SRs: the tests of merges below and of leaves in use, unchanged."""

from __future__ import annotations

__all__ = [name for name in globals() if name.startswith("test_")]
