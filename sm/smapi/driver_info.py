"""What a driver tells XAPI about itself, in the form of `sr_get_driver_info`."""

from __future__ import annotations

from dataclasses import dataclass

from sm.smapi.xmlrpc import Value

VERSION = "0.1"
REQUIRED_API = "1.0"


@dataclass(frozen=True, slots=True)
class DriverInfo:
    """Name, features and parameters of an SR type.

    `features` are the capability strings of SMAPI; one is listed only when it works.
    `configuration` maps each key of device_config to its description.
    """

    sr_type: str
    name: str
    description: str
    features: tuple[str, ...]
    configuration: tuple[tuple[str, str], ...]
    image_formats: tuple[str, ...]

    def wire(self) -> Value:
        """The struct that XAPI expects."""
        return {
            "name": self.name,
            "description": self.description,
            "vendor": "sm",
            "copyright": "LGPL-2.1-only",
            "driver_version": VERSION,
            "required_api_version": REQUIRED_API,
            "capabilities": list(self.features),
            "configuration": [
                {"key": key, "description": description} for key, description in self.configuration
            ],
            "supported_image_formats": list(self.image_formats),
        }
