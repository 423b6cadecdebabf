"""Every kind of volume store by name. A new one is one module and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from sm.config import Settings
from sm.cowutil.registry import Formats
from sm.volumes.base import VolumeStore

STORES: Mapping[str, str] = {
    "directory": "sm.volumes.directory:open_store",
    "lvm": "sm.volumes.lvm.opening:open_store",
}
"""Kind to `module:function`; a module is imported when its kind is first used."""


def open_store(
    kind: str, place: Mapping[str, Any], formats: Formats, settings: Settings
) -> VolumeStore:
    """The store of that kind at `place`, which is what its driver noted when it was attached."""
    module, _, function = STORES[kind].partition(":")
    found: VolumeStore = getattr(import_module(module), function)(place, formats, settings)
    return found
