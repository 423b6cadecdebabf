"""Names, settings and output of open-iscsi; the tool itself is tried in `tests/lvm/guest`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm.block import initiator, iscsi
from sm.block.iscsi import Chap, Target
from sm.errors import SmError
from tests.block.recorded import FOLDER

RECORD = (FOLDER / "iscsiadm.txt").read_text()


def test_targets_are_read_from_a_discovery() -> None:
    # iscsiadm 2.1.8, -m discovery -t sendtargets; the second and third line as of its sources.
    listing = (
        "127.0.0.1:3260,1 iqn.2003-01.org.example:store\n"
        "[fe80::1]:3261,2 eui.02004567A425678D\n"
        "10.0.0.7:3260,-1 iqn.2003-01.org.example:other\n"
        "iscsiadm: no such line\n"
        "10.0.0.7:3260,1 --name-of-an-attacker\n"
    )
    assert iscsi.parse_targets(listing) == [
        Target("127.0.0.1", 3260, "iqn.2003-01.org.example:store"),
        Target("fe80::1", 3261, "eui.02004567A425678D"),
        Target("10.0.0.7", 3260, "iqn.2003-01.org.example:other"),
    ]
    assert iscsi.parse_targets(listing)[1].portal == "[fe80::1]:3261"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "*",
        "iqn.2003-1.org:x",
        "iqn.2003-01.org.example:a b",
        "iqn.2003-01.org.example:a/../b",
        "iqn.2003-01.org.example:a\nnode.startup",
        "--login",
        "eui.123",
        "iqn.2003-01." + "a" * 250,
    ],
)
def test_what_is_no_name_of_a_target_is_refused(value: str) -> None:
    with pytest.raises(SmError) as raised:
        iscsi.require_name(value)
    assert raised.value.code == 106


def test_chap_settings_replace_those_of_a_record() -> None:
    chap = Chap("me", "p#ss=w0rd x", "", "")
    changed = initiator.changed(RECORD, chap.settings("discovery.sendtargets"))
    lines = changed.splitlines()
    assert lines[-1] == "# END RECORD"
    assert [line for line in lines if ".auth." in line] == [
        "node.session.auth.chap_algs = MD5",
        "discovery.sendtargets.auth.authmethod = CHAP",
        "discovery.sendtargets.auth.username = me",
        "discovery.sendtargets.auth.password = p#ss=w0rd x",
    ]
    without = initiator.changed(changed, Chap("", "", "", "").settings("discovery.sendtargets"))
    assert "p#ss" not in without
    assert sorted(without.splitlines()) == sorted(RECORD.splitlines())


def test_a_secret_is_not_shown() -> None:
    assert "p#ss" not in repr(Chap("me", "p#ss", "they", "p#ss2"))


@pytest.mark.parametrize(
    "device_config",
    [
        {"chapuser": "me"},
        {"chappassword": "secret"},
        {"chapuser": "me", "chappassword": "secret", "incoming_chapuser": "they"},
        {"incoming_chapuser": "they", "incoming_chappassword": "secret"},
        {"chapuser": "me", "chappassword": "secret\nnode.startup = automatic"},
        {"chapuser": "me", "chappassword": " secret"},
        {"chapuser": "me", "chappassword": "x" * 256},
        {"chapuser": "me\t", "chappassword": "x"},
    ],
)
def test_half_or_hostile_secrets_are_refused(device_config: dict[str, str]) -> None:
    with pytest.raises(SmError) as raised:
        iscsi.chap(device_config)
    assert raised.value.code in (2, 115)
    assert "secret" not in str(raised.value)


def test_the_name_of_this_host(tmp_path: Path) -> None:
    path = tmp_path / "initiatorname.iscsi"
    path.write_text("## a comment\nInitiatorName=iqn.2004-10.org.example:host\n")
    assert initiator.require_initiator(path) == "iqn.2004-10.org.example:host"
    for content in ("", "InitiatorName=\n", "# InitiatorName=iqn.2004-10.org.example:host\n"):
        path.write_text(content)
        with pytest.raises(SmError) as raised:
            initiator.require_initiator(path)
        assert raised.value.code == 97
    path.unlink()
    with pytest.raises(SmError):
        initiator.require_initiator(path)
