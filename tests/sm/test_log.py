"""Log lines carry what they are about: as JSON, as journald's fields, and as readable text."""

from __future__ import annotations

import json
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm import log
from sm.errors import Busy
from sm.gc.copying.background import in_background
from tests.support.patience import patient

logger = logging.getLogger("sm.test")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger("sm")
    before = (list(root.handlers), root.level, root.propagate)
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level, root.propagate = before


def test_a_file_holds_one_json_object_a_line(tmp_path: Path) -> None:
    file = tmp_path / "log" / "sm.log"
    log.start("file", file)
    with log.about(sr="S", vdi="", job="J"):
        logger.info("two\nlines of %s", "text")
        with log.about(vdi="V"):
            in_background(lambda: logger.info("copied"))
        threading.Thread(target=lambda: logger.info("elsewhere")).start()
        try:
            raise Busy("not now")
        except Busy:
            logger.exception("refused")
    logger.warning("after", extra={"vdi": "W"})
    logger.debug("not said")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    said = {line["message"]: line for line in lines}
    assert len(lines) == 5
    first = said["two\nlines of text"]
    assert (first["level"], first["logger"], first["sr"], first["job"]) == (
        *("INFO", "sm.test"),
        *("S", "J"),
    )
    assert "vdi" not in first
    assert first["time"].endswith("+00:00")
    assert (said["copied"]["vdi"], said["copied"]["job"]) == ("V", "J")
    assert "job" not in said["elsewhere"]
    assert said["refused"]["code"] == "EGAIN"
    assert "Traceback" in said["refused"]["exception"]
    assert (said["after"].get("sr"), said["after"]["vdi"]) == (None, "W")


def fields(datagram: bytes) -> dict[str, str]:
    """Read a datagram as journald does."""
    found = {}
    while datagram:
        head, datagram = datagram.split(b"\n", 1)
        name, separator, value = head.partition(b"=")
        if not separator:
            (length,) = struct.unpack("<Q", datagram[:8])
            value, datagram = datagram[8 : 8 + length], datagram[9 + length :]
        found[name.decode()] = value.decode()
    return found


def test_journald_gets_fields(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        journal.settimeout(patient(10))
        log.start("journald", tmp_path / "unused", journal=path)
        with log.about(sr="S", job="J"):
            logger.warning("a = b\nand more")
            found = fields(journal.recv(65536))
        assert found["MESSAGE"] == "a = b\nand more"
        assert (found["PRIORITY"], found["SYSLOG_IDENTIFIER"]) == ("4", "sm")
        assert (found["SM_SR"], found["SM_JOB"], found["LOGGER"]) == ("S", "J", "sm.test")
        try:
            raise Busy("not now")
        except Busy:
            logger.exception("refused")
        found = fields(journal.recv(65536))
        assert (found["PRIORITY"], found["SM_CODE"]) == ("3", "EGAIN")
        assert "Traceback" in found["MESSAGE"]
    assert not (tmp_path / "unused").exists()


def test_text_stays_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.start("stderr", tmp_path / "unused")
    with log.about(sr="S", job="J"):
        logger.info("hello")
    logger.info("plain")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("INFO sm.test: [sr=S job=J] hello")
    assert second.endswith("INFO sm.test: plain")


def test_without_a_journal_standard_error_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.start("journald", tmp_path / "unused", journal=tmp_path / "nothing")
    logger.info("quiet")
    logger.error("loud")
    assert "loud" in capsys.readouterr().err
