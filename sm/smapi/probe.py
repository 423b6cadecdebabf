"""The XML documents in which a driver tells what it found: SRs, and what there is to choose from.

XAPI hands the list of SRs on as it is. A choice is what a request lacked: its fault says so in
words, and the document goes to standard error, where clients read it. Names are those of SMAPI.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lxml import etree

Members = Mapping[str, str]


def sr_list(found: Iterable[Members], versions: Sequence[str] = ()) -> str:
    """`SRlist`: the SRs that are there, and the versions that a file server supports."""
    root = etree.Element("SRlist")
    for members in found:
        _add(root, "SR", members)
    if versions:
        supported = etree.SubElement(root, "SupportedVersions")
        for version in versions:
            etree.SubElement(supported, "Version").text = version
    return _text(root)


def exports(found: Iterable[Members]) -> str:
    """`nfs-exports`: what a file server lets be mounted."""
    return _choice("nfs-exports", "Export", found)


def targets(found: Iterable[Members]) -> str:
    """`iscsi-target-iqns`: the targets behind a portal."""
    return _choice("iscsi-target-iqns", "TGT", found)


def units(found: Iterable[Members]) -> str:
    """`iscsi-target`: the logical units of a target."""
    return _choice("iscsi-target", "LUN", found)


def block_devices(found: Iterable[Members], adapters: Iterable[Members] = ()) -> str:
    """`Devlist`: the devices behind the adapters of this host, then the adapters."""
    root = etree.Element("Devlist")
    for members in found:
        _add(root, "BlockDevice", members)
    for members in adapters:
        _add(root, "Adapter", members)
    return _text(root)


def _choice(name: str, each: str, found: Iterable[Members]) -> str:
    root = etree.Element(name)
    for members in found:
        _add(root, each, members)
    return _text(root)


def _add(root: etree._Element, name: str, members: Members) -> None:
    entry = etree.SubElement(root, name)
    for key, value in members.items():
        # Devices and servers say what they like; XML cannot carry all of it.
        etree.SubElement(entry, key).text = "".join(
            character if character.isprintable() else "?" for character in value
        )


def _text(root: etree._Element) -> str:
    return etree.tostring(root, encoding="unicode")
