"""Calls a driver's executable as XAPI does: one argument, a bare environment, one reply."""

from __future__ import annotations

import os
import subprocess
import sys
import xmlrpc.client
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.support import warm
from tests.support.patience import patient

EXECUTABLES = Path(sys.executable).parent


def untyped(value: Any) -> str:
    """A value as XAPI writes it: strings without a type, the empty one as an empty element."""
    if isinstance(value, dict):
        members = "".join(
            f"<member><name>{escape(name)}</name>{untyped(item)}</member>"
            for name, item in value.items()
        )
        return f"<value><struct>{members}</struct></value>"
    if isinstance(value, list):
        return f"<value><array><data>{''.join(map(untyped, value))}</data></array></value>"
    return f"<value>{escape(value)}</value>" if value else "<value/>"


def document(command: str, members: dict[str, Any]) -> str:
    """A `methodCall` in XAPI's style."""
    return (
        f'<?xml version="1.0"?><methodCall><methodName>{command}</methodName><params><param>'
        f"{untyped(members)}</param></params></methodCall>"
    )


@dataclass
class Plugin:
    """One driver's executable, against one root.

    Each call is a fork of the test or, if it is to be `started`, a process as XAPI has it.
    """

    root: Path
    name: str = "FileSR"
    members: dict[str, Any] = field(default_factory=dict)
    started: bool = False

    def raw(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it with any arguments."""
        environment = {"PATH": os.environ["PATH"], "ORIGINATOR": "SM", "SM_ROOT": str(self.root)}
        if not self.started:
            ended = warm.program(self.name, arguments, environment)
            said = (ended.stdout.decode(), ended.stderr.decode())
            return subprocess.CompletedProcess(ended.args, ended.returncode, *said)
        return subprocess.run(
            [str(EXECUTABLES / self.name), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=patient(120),
        )

    def call(self, command: str, *args: str, **members: Any) -> Any:
        """One call; returns what the reply carries, raises `xmlrpc.client.Fault`."""
        request = {"command": command, "args": list(args), **self.members, **members}
        ended = self.raw(document(command, request))
        assert ended.returncode == 0, ended.stderr
        (value,), _ = xmlrpc.client.loads(ended.stdout)
        return value

    def fault(self, command: str, *args: str, **members: Any) -> xmlrpc.client.Fault:
        """One call that must be refused."""
        try:
            value = self.call(command, *args, **members)
        except xmlrpc.client.Fault as fault:
            return fault
        raise AssertionError(f"{command} was not refused but answered {value!r}")
