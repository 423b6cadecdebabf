"""The request that XAPI sends to a plugin, typed. Members that we do not know are kept."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sm.errors import BadRequest, InvalidArgument, SmError

Strings = dict[str, str]


class Request(BaseModel):
    """One call. Absent members have the value that means absent; all values are wire strings."""

    model_config = ConfigDict(extra="allow", frozen=True)

    command: str
    args: list[str] = Field(default_factory=list)
    host_ref: str = ""
    device_config: Strings = Field(default_factory=dict)
    session_ref: str | None = None
    subtask_of: str | None = None
    sr_ref: str = ""
    sr_uuid: str = ""
    sr_sm_config: Strings = Field(default_factory=dict)
    vdi_ref: str | None = None
    vdi_uuid: str | None = None
    vdi_location: str | None = None
    vdi_type: str = "user"
    vdi_sm_config: Strings = Field(default_factory=dict)
    vdi_on_boot: str | None = None
    vdi_allow_caching: str | None = None
    local_cache_sr: str | None = None
    new_uuid: str | None = None
    driver_params: Strings = Field(default_factory=dict)

    @classmethod
    def parse(cls, method: str, parameters: list[Any]) -> Request:
        """Build from a parsed `methodCall`; raises `BadRequest` naming the member that is wrong."""
        if len(parameters) != 1 or not isinstance(parameters[0], dict):
            raise BadRequest("the call must have one parameter, a struct")
        try:
            request = cls.model_validate({"command": method, **parameters[0]})
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise BadRequest(f"{where}: {problem['msg']}") from error
        if request.command != method:
            raise BadRequest(f"the command {request.command!r} is not the method {method!r}")
        return request

    def argument(self, index: int, name: str) -> str:
        """The positional argument at `index`; raises `BadRequest` when it is not there."""
        if index >= len(self.args):
            raise BadRequest(f"{self.command}: the argument {name} is missing")
        return self.args[index]

    def optional(self, index: int) -> str:
        """The positional argument at `index`, or the empty string."""
        return self.args[index] if index < len(self.args) else ""

    def size(self, index: int) -> int:
        """The positional argument at `index` as a number of bytes."""
        text = self.argument(index, "size")
        if not text.isascii() or not text.isdigit():
            raise InvalidArgument(f"the size {text!r} is not a number of bytes")
        return int(text)

    def flag(self, index: int, name: str, *, default: bool | None = None) -> bool:
        """The positional argument at `index` as a boolean, `true` or `false`."""
        text = self.optional(index)
        if not text and default is not None:
            return default
        if text.lower() not in ("true", "false"):
            raise InvalidArgument(f"{name} is {text!r}, neither true nor false")
        return text.lower() == "true"

    @property
    def is_master(self) -> bool:
        """Whether XAPI says that this host is the SR's master."""
        return self.device_config.get("SRmaster", "false").lower() == "true"


def require_xml_text(*texts: str) -> None:
    """Refuse names that cannot be stored in XML (code 447)."""
    for text in texts:
        for character in text:
            if (ord(character) < 32 and character not in "\t\n\r") or character in "\ufffe\uffff":
                raise SmError(f"character {ord(character):#06x}", name="IllegalXMLChar")
