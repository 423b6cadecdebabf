"""XML-RPC as XAPI speaks it to a plugin: one call in, one reply or fault out.

The document comes from outside, so entities, document types, network access and huge trees are off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lxml import etree

from sm.errors import BadRequest

MAX_DOCUMENT = 4 << 20
"""Bytes. A request of XAPI is a few KiB."""

Value = str | int | bool | float | None | list["Value"] | Mapping[str, "Value"]
"""What a document can carry here; binary and dates travel as strings between XAPI and a plugin."""


def parse_call(document: str) -> tuple[str, list[Value]]:
    """The method name and parameters of a `methodCall`; raises `BadRequest`."""
    root = _parse(document)
    if root.tag != "methodCall":
        raise BadRequest(f"the document is a {root.tag}, not a methodCall")
    name = (root.findtext("methodName") or "").strip()
    if not name:
        raise BadRequest("the call has no methodName")
    return name, [_value(_only(param, "value")) for param in root.findall("params/param")]


def _parse(document: str) -> etree._Element:
    try:
        content = document.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRequest("the document is no UTF-8") from error
    if len(content) > MAX_DOCUMENT:
        raise BadRequest(f"the document is longer than {MAX_DOCUMENT} bytes")
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise BadRequest(f"not well-formed XML: {error.msg}") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise BadRequest("the document has a document type, which is not allowed")
    return root


def _only(element: etree._Element, tag: str) -> etree._Element:
    found = element.findall(tag)
    if len(found) != 1:
        raise BadRequest(f"a {element.tag} has {len(found)} {tag} elements, not one")
    return found[0]


def _value(element: etree._Element) -> Value:
    children = list(element)
    if not children:
        return element.text or ""
    if len(children) != 1:
        raise BadRequest("a value has more than one type")
    typed = children[0]
    read = _READERS.get(str(typed.tag))
    if read is None:
        raise BadRequest(f"a value has the unknown type {typed.tag}")
    try:
        return read(typed)
    except ValueError as error:
        said = (typed.text or "")[:100]
        raise BadRequest(f"{said!r} is no {typed.tag}") from error


def _array(element: etree._Element) -> Value:
    return [_value(item) for item in _only(element, "data").findall("value")]


def _struct(element: etree._Element) -> Value:
    members: dict[str, Value] = {}
    for member in element.findall("member"):
        name = _only(member, "name").text or ""
        if name in members:
            raise BadRequest(f"the member {name!r} is given twice")
        members[name] = _value(_only(member, "value"))
    return members


def _text(element: etree._Element) -> Value:
    return element.text or ""


def _integer(element: etree._Element) -> Value:
    return int(element.text or "")


def _boolean(element: etree._Element) -> Value:
    text = (element.text or "").strip()
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


_READERS: Mapping[str, Callable[[etree._Element], Value]] = {
    "string": _text,
    "int": _integer,
    "i4": _integer,
    "i8": _integer,
    "double": lambda element: float(element.text or ""),
    "boolean": _boolean,
    "nil": lambda _: None,
    "array": _array,
    "struct": _struct,
    "dateTime.iso8601": _text,
    "base64": _text,
}


def reply(value: Value) -> str:
    """A `methodResponse` that carries `value`; None is the unit, exactly `<nil/>`."""
    body = f"<params><param>{_encode(value)}</param></params>"
    return f"<?xml version='1.0'?>\n<methodResponse>{body}</methodResponse>\n"


def fault(code: int, text: str) -> str:
    """A `methodResponse` that carries a fault."""
    body = _encode({"faultCode": code, "faultString": text})
    return f"<?xml version='1.0'?>\n<methodResponse><fault>{body}</fault></methodResponse>\n"


def call(method: str, parameters: list[Any]) -> str:
    """A `methodCall` document."""
    body = "".join(f"<param>{_encode(parameter)}</param>" for parameter in parameters)
    return (
        f"<?xml version='1.0'?>\n<methodCall><methodName>{_escape(method)}</methodName>"
        f"<params>{body}</params></methodCall>\n"
    )


def escape(text: str) -> str:
    """Text as XML content; the standard library's own loads HTTP, which takes 20 ms."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escape(text: str) -> str:
    """Escape markup, and put `?` for characters that XML 1.0 cannot carry in any form."""
    allowed = (
        character
        if character in "\t\n\r"
        or " " <= character <= "\ud7ff"
        or "\ue000" <= character <= "\ufffd"
        or character > "\uffff"
        else "?"
        for character in text
    )
    return escape("".join(allowed))


def _encode(value: Any) -> str:
    if value is None:
        return "<value><nil/></value>"
    if isinstance(value, bool):
        return f"<value><boolean>{int(value)}</boolean></value>"
    if isinstance(value, int):
        return f"<value><int>{value}</int></value>"
    if isinstance(value, float):
        return f"<value><double>{value!r}</double></value>"
    if isinstance(value, str):
        return f"<value><string>{_escape(value)}</string></value>"
    if isinstance(value, Mapping):
        members = "".join(
            f"<member><name>{_escape(name)}</name>{_encode(item)}</member>"
            for name, item in value.items()
        )
        return f"<value><struct>{members}</struct></value>"
    if isinstance(value, list | tuple):
        items = "".join(_encode(item) for item in value)
        return f"<value><array><data>{items}</data></array></value>"
    raise TypeError(f"{type(value).__name__} has no XML-RPC form")
