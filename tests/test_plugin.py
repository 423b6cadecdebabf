"""The frame around every plugin call: whatever happens, one document and exit status 0."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import xmlrpc.client
from collections.abc import Mapping
from pathlib import Path

import pytest

from sm import plugin
from sm.drivers.file import FileSr
from sm.sr import FoundSr
from tests.support.plugin import EXECUTABLES, Plugin, document


class BrokenSr(FileSr):
    """A driver with a defect."""

    def probe(self, device_config: Mapping[str, str]) -> list[FoundSr]:
        raise ZeroDivisionError("a defect of ours")


def test_a_defect_becomes_fault_1200_and_its_traceback_a_log_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SM_ROOT", str(tmp_path))
    answer = plugin.answer(BrokenSr, [document("sr_probe", {"command": "sr_probe"})])
    with pytest.raises(xmlrpc.client.Fault) as raised:
        xmlrpc.client.loads(answer)
    assert raised.value.faultCode == 1200
    assert "Traceback" not in answer
    logging.shutdown()
    logged = (tmp_path / "log" / "sm.log").read_text()
    assert "ZeroDivisionError: a defect of ours" in logged
    assert "Traceback" in logged


def test_a_root_that_cannot_be_used_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    fault = Plugin(tmp_path / "file" / "root", started=True).fault("sr_probe", device_config={})
    assert fault.faultCode == 1
    assert "sm.conf cannot be read" in fault.faultString


def test_children_and_prints_cannot_spoil_the_reply(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from sm import plugin\n"
        "from sm.drivers.file import FileSr\n"
        "class Noisy(FileSr):\n"
        "    def probe(self, device_config):\n"
        "        print('stray'); os.system('echo stray child'); return []\n"
        "plugin.main(Noisy)\n"
    )
    call = document("sr_probe", {"command": "sr_probe", "device_config": {}})
    ended = subprocess.run(
        [sys.executable, "-c", code, call],
        env={**os.environ, "SM_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert xmlrpc.client.loads(ended.stdout)[0] == ("<SRlist/>",)
    assert "stray child" in ended.stderr


def test_a_choice_goes_to_standard_error_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "from sm import plugin\n"
        "from sm.drivers.file import FileSr\n"
        "from sm.errors import ChoiceNeeded\n"
        "class Choosy(FileSr):\n"
        "    def probe(self, device_config):\n"
        "        raise ChoiceNeeded('a or b', '<two/>', name='ConfigSCSIid')\n"
        "plugin.main(Choosy)\n"
    )
    call = document("sr_probe", {"command": "sr_probe", "device_config": {}})
    ended = subprocess.run(
        [sys.executable, "-c", code, call],
        env={**os.environ, "SM_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == "<two/>"
    with pytest.raises(xmlrpc.client.Fault) as raised:
        xmlrpc.client.loads(ended.stdout)
    assert (raised.value.faultCode, "a or b" in raised.value.faultString) == (107, True)


def test_a_request_that_is_no_utf8_is_refused() -> None:
    """With a fault of its own, and no traceback."""
    ended = subprocess.run(
        [EXECUTABLES / "FileSR", b"<methodCall>\xff</methodCall>"], capture_output=True, check=False
    )
    with pytest.raises(xmlrpc.client.Fault, match="no UTF-8"):
        xmlrpc.client.loads(ended.stdout)
    assert b"Traceback" not in ended.stderr
