"""Values of device_config: what may be said, and what is refused with which error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given as examples
from hypothesis import strategies

from sm.block import given, nfs
from sm.errors import SmError


def code(call: Callable[[], object]) -> int:
    """The code of the error that it raises."""
    with pytest.raises(SmError) as raised:
        call()
    return raised.value.code


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("files.example.org", "files.example.org"),
        ("nas_1", "nas_1"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
    ],
)
def test_hosts(value: str, expected: str) -> None:
    assert given.host(value, "server") == expected


@pytest.mark.parametrize(
    "value", ["", "-o", "a b", "a,b", "a:b", "a/b", "a..b", "é.org", "[x]", "a" * 64, "b." * 130]
)
def test_what_is_no_host(value: str) -> None:
    assert code(lambda: given.host(value, "server")) == 2


@examples(strategies.text())
def test_a_path_that_is_accepted_is_one_safe_argument(value: str) -> None:
    try:
        path = given.absolute_path(value, "serverpath", "ConfigServerPathBad")
    except SmError as error:
        assert error.code == 103
        return
    assert path.startswith("/")
    assert not set(path) & set(" ,\n\t'\"\\;$`")
    assert ".." not in Path(path).parts
    assert given.absolute_path(path, "serverpath", "ConfigServerPathBad") == path


def test_paths_have_one_form() -> None:
    for value in ("/srv/nfs", "/srv//nfs/", "/srv/./nfs"):
        assert given.absolute_path(value, "x", "ConfigServerPathBad") == "/srv/nfs"
    assert given.absolute_path("/", "x", "ConfigServerPathBad") == "/"


@pytest.mark.parametrize("value", ["0", "65536", "-1", "1x", "٣", "999999", "1,2"])
def test_ports(value: str) -> None:
    assert given.port("", "port", 3260) == 3260
    assert given.port("3261", "port", 3260) == 3261
    assert code(lambda: given.port(value, "port", 3260, "ISCSIPort")) == 142


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", 90),
        ("sdb", 91),
        ("/dev/sdb,", 91),
        ("/etc/passwd", 91),
        ("/dev/sdb,/dev/sdb", 91),
        ("/dev/../etc/x", 91),
        ("/dev/sdb --force", 91),
        ("/dev/sdb\n/dev/sdc", 2),
        ("/dev/" + "x" * 5000, 1),
    ],
)
def test_devices(value: str, expected: int) -> None:
    assert code(lambda: given.device_paths({"device": value})) == expected


def test_several_devices() -> None:
    assert given.device_paths({"device": "/dev/sdb,/dev/mapper/x"}) == [
        Path("/dev/sdb"),
        Path("/dev/mapper/x"),
    ]


@pytest.mark.parametrize(
    "options",
    [
        "exec",
        "vers=3",
        "nfsvers=4",
        "acdirmin=60",
        "actimeo=60",
        "addr=10.0.0.1",
        "rsize",
        "rsize=x",
        "rsize=1 soft",
        "soft=1",
        "proto=udp",
        "sec=none;x",
        "context=x",
        "remount",
        "bind",
        "soft\nbind",
    ],
)
def test_options_that_may_not_be_given(options: str) -> None:
    assert code(lambda: nfs.given_options({"options": options})) in (1, 2)


def test_options_are_kept_in_their_order() -> None:
    given_ = nfs.given_options({"options": "hard,timeo=50,,sec=krb5:sys,nconnect=4"})
    assert given_ == ("hard", "timeo=50", "sec=krb5:sys", "nconnect=4")
    assert nfs.mount_options("4.1", given_) == (
        *("vers=4.1", "soft", "proto=tcp", "timeo=200", "retrans=4", "acdirmin=0", "acdirmax=0"),
        *given_,
    )
    assert nfs.service_port(("port=2050",)) == 2050
    assert nfs.service_port(()) == 2049


@pytest.mark.parametrize("version", ["2", "5", "4.3", "3,soft", " 3", "03"])
def test_versions(version: str) -> None:
    assert nfs.version({}) == "3"
    assert nfs.version({"nfsversion": "4.2"}) == "4.2"
    assert code(lambda: nfs.version({"nfsversion": version})) == 72


def test_udp_is_refused() -> None:
    assert nfs.given_options({"useUDP": "false"}) == ()
    assert code(lambda: nfs.given_options({"useUDP": "true"})) == 1
    assert code(lambda: nfs.given_options({"useUDP": "maybe"})) == 1
