"""`sm.conf`: what is refused, by file and line; and the documented block works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.foreign_state.damage import DAMAGES
from tests.support.site import Refused, Site
from tests.support.tiers import ROOT


def test_the_documented_block_works_pasted(site: Site) -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    (block,) = re.findall(r"```ini\n(\[sm\]\n.*?)```", text, re.DOTALL)
    (site.root / "sm.conf").write_text(block)
    sr = site.create_sr()
    site.create_vdi(sr, "qcow2")
    (host,) = site.sm("host", "list")
    assert host["name"] == "alpha", "without the comment behind it"


@pytest.mark.parametrize(
    ("lines", "number", "words"),
    [
        (["[sm]", "log = file", "log = stderr"], 3, "log is set already"),
        (["[sm]", "", "lock_second = 5"], 3, "no setting 'lock_second'"),
        (["[sm]", "lock_seconds = soon ; or later"], 2, "not 'soon'"),
        (["[sm]", "datapath = both"], 2, "one of auto, tapdisk, own"),
        (["[sm]", "pool = mine"], 2, "one of auto, embedded, xapi"),
        (["[sm]", "log = nowhere"], 2, "one of file, journald"),
        (["[sm]", "preferred_image_formats = vmdk"], 2, "'vmdk'"),
        (["[sm]", "pool_database = mysql://x"], 2, "'mysql'"),
        (["[sm]", "host_key = x"], 2, "TLS needs all"),
        (["log = file"], 1, "where [sm] should be"),
        (["[sm]", "log"], 2, "where KEY = VALUE"),
        (["[others]", "log = file"], 1, "[others]"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_line(
    site: Site, lines: list[str], number: int, words: str
) -> None:
    path = site.root / "sm.conf"
    path.write_text("\n".join(lines))
    with pytest.raises(Refused, match=re.escape(words)) as refused:
        site.sm("sr", "list")
    assert f"{path}, line {number}: " in refused.value.error["detail"]


@pytest.mark.parametrize("damage", ["no-utf8", "folder", "loop", "pipe"])
def test_settings_that_cannot_be_read_are_no_missing_settings(site: Site, damage: str) -> None:
    path = site.root / "sm.conf"
    DAMAGES[damage](path)
    with pytest.raises(Refused) as refused:
        site.sm("sr", "list")
    assert str(path) in refused.value.error["detail"]


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"alpha"])
def test_a_damaged_identity_is_not_made_anew(site: Site, content: bytes) -> None:
    site.create_sr()
    path: Path = site.root / "host_uuid"
    path.write_bytes(content)
    with pytest.raises(Refused, match="UUID of this host"):
        site.sm("sr", "list")
    assert path.read_bytes() == content
