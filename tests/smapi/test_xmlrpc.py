"""The wire: what XAPI writes is read, what we write is read by others, bad XML is refused."""

from __future__ import annotations

import xmlrpc.client

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sm.errors import BadRequest
from sm.smapi import xmlrpc as wire

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"))
VALUES = st.recursive(
    TEXT | st.booleans() | st.integers(-(2**31), 2**31 - 1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_replies_are_read_by_the_standard_library(value: wire.Value) -> None:
    (read,), _ = xmlrpc.client.loads(wire.reply(value))
    assert read == value


@given(VALUES)
def test_calls_of_the_standard_library_are_read(value: wire.Value) -> None:
    document = xmlrpc.client.dumps((value,), "vdi_create", allow_none=True)
    assert wire.parse_call(document) == ("vdi_create", [value])


def test_unit_is_exactly_nil() -> None:
    assert "<param><value><nil/></value></param>" in wire.reply(None)


def test_fault_is_a_fault() -> None:
    with pytest.raises(xmlrpc.client.Fault) as raised:
        xmlrpc.client.loads(wire.fault(46, "a <b> & \x01 c"))
    assert raised.value.faultCode == 46
    assert raised.value.faultString == "a <b> & ? c"


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("<string> kept </string>", " kept "),
        ("<int>7</int>", 7),
        ("<i4>-7</i4>", -7),
        ("<boolean>1</boolean>", True),
        ("<nil/>", None),
        ("<array><data/></array>", []),
        ("<struct/>", {}),
    ],
)
def test_forms_of_values(inner: str, expected: wire.Value) -> None:
    document = (
        "<methodCall><methodName>m</methodName><params><param>"
        f"<value>{inner}</value></param></params></methodCall>"
    )
    assert wire.parse_call(document) == ("m", [expected])


@pytest.mark.parametrize(
    "document",
    [
        "",
        "no xml",
        "<methodCall/>",
        "<other/>",
        "<methodCall><methodName>m</methodName><params><param/></params></methodCall>",
        "<methodCall><methodName>m</methodName><params><param><value><what/></value></param>"
        "</params></methodCall>",
        "<methodCall><methodName>m</methodName><params><param><value><int>x</int></value></param>"
        "</params></methodCall>",
        '<!DOCTYPE a [<!ENTITY b "c">]><methodCall><methodName>&b;</methodName></methodCall>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><methodCall><methodName>m</methodName>'
        "</methodCall>",
        "<methodCall><methodName>m</methodName>" + " " * wire.MAX_DOCUMENT + "</methodCall>",
        "<a>" * 100_000,
    ],
)
def test_bad_documents_are_refused(document: str) -> None:
    with pytest.raises(BadRequest):
        wire.parse_call(document)


def test_entities_are_not_expanded() -> None:
    lines = ['<!DOCTYPE l [<!ENTITY a0 "ha">']
    lines += [f'<!ENTITY a{n + 1} "&a{n};&a{n};&a{n};&a{n};">' for n in range(20)]
    document = "".join(lines) + "]><methodCall><methodName>&a20;</methodName></methodCall>"
    with pytest.raises(BadRequest):
        wire.parse_call(document)
