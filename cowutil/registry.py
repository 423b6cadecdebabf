"""Every image format by name. A new format is one package and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from typing import NamedTuple

from sm.cowutil.base import CowUtil, ImageFormat, ToolRunner

FORMATS: Mapping[str, str] = {
    "qcow2": "sm.cowutil.qcow2.util:Qcow2Util",
    "vhd": "sm.cowutil.vhd.util:VhdUtil",
    "raw": "sm.cowutil.raw:RawFormat",
}
"""Format name to `module:class`; a module is imported when its format is first used."""

CLIENT_NAMES: Mapping[str, str] = {"raw": "aio"}
"""What clients of SMAPI call a format in `vdi_type`, where that is another name."""


VOLUME_PREFIXES: Mapping[str, str] = {"qcow2": "QCOW2", "vhd": "VHD", "raw": "LV"}
"""How the names of logical volumes with images of a format begin."""


class QemuDriver(NamedTuple):
    """What qemu calls a format, and whether an image of it may have a backing image."""

    name: str
    backed: bool


QEMU_DRIVERS: Mapping[str, QemuDriver] = {
    "qcow2": QemuDriver("qcow2", backed=True),
    "raw": QemuDriver("raw", backed=False),
}
"""The formats whose chains qemu can serve. It reads a VHD too, but without its parents."""


class Formats:
    """The formats, each made once, all running their tools through one `ToolRunner`."""

    def __init__(self, runner: ToolRunner, table: Mapping[str, str] = FORMATS) -> None:
        self._runner = runner
        self._table = table
        self._made: dict[str, ImageFormat] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all formats, in order of preference."""
        return tuple(self._table)

    def get(self, name: str) -> ImageFormat:
        """The format called `name`; KeyError when there is none."""
        if name not in self._made:
            module, _, attribute = self._table[name].partition(":")
            self._made[name] = getattr(import_module(module), attribute)(self._runner)
        return self._made[name]

    def cow(self, name: str) -> CowUtil:
        """The copy-on-write format called `name`; KeyError when it is none."""
        found = self.get(name)
        if not isinstance(found, CowUtil):
            raise KeyError(name)
        return found
