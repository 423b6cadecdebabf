"""The volume with the names, as bytes: what others wrote, what we write, and what is in between."""

from __future__ import annotations

import random
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml import etree

from sm.pool.times import NO_TIME
from sm.volumes.described import Catalogue, Described
from sm.volumes.lvm import mgt, mgt_text
from sm.volumes.lvm.mgt import About
from tests.volumes.lvm.documents import SR, first, of_others, second

A, B, C, D, E = (str(uuid.UUID(int=number)) for number in range(1, 6))
ABOUT = About(SR, "thin")
SIZE = 4 << 20


def nothing(_: str) -> bool:
    """Keep no disk."""
    return False


def described(raw: bytes) -> Mapping[str, Described]:
    """The disks."""
    return mgt.read(raw)[1].disks


def test_what_an_existing_installation_wrote_is_read() -> None:
    raw = of_others(
        (first("web", "a &lt;disk&gt; for a\nserver"), second(A)),
        (first("gone"), second(B, deleted=1)),
        (first("web before"), second(C, snapshot=1, snapshot_of=A)),
        (first("old bug"), second(D, snapshot=1, snapshot_of="OpaqueRef:1234")),
        (b"<vdi><name_label>bell \x07 and \xff</name_label>", second(E)),
    )
    assert mgt.used(raw[:512], SIZE) == len(raw)
    about, catalogue = mgt.read(raw)
    assert about == About(SR, "thick")
    assert (catalogue.name_label, catalogue.name_description) == ("Local & slow", "Größe")
    web = Described(
        A, "web", "a <disk> for a\nserver", snapshot_time="20240131T12:00:00Z", vdi_type="vhd"
    )
    assert dict(catalogue.disks) == {
        A: web,
        C: replace(web, uuid=C, name_label="web before", name_description="", is_a_snapshot=True,
                   snapshot_of=A),
        D: replace(web, uuid=D, name_label="old bug", name_description="", is_a_snapshot=True),
        E: replace(web, uuid=E, name_label="bell ? and \ufffd", name_description=""),
    }  # fmt: skip
    assert mgt.is_sealed(raw, bytes(mgt.BLOCK)) is None
    assert mgt.generation(bytes(mgt.BLOCK)) == 0
    assert mgt.generation(mgt.seal(raw, 41)) == 41
    assert mgt.is_sealed(raw, mgt.seal(raw, 41))
    assert mgt.is_sealed(raw + b"x", mgt.seal(raw, 41)) is False


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "<vdi>",
        second(B)[:-8],
        second(B).replace("</uuid>", "</uid>"),
        second("not-a-uuid"),
        second(B).replace("<uuid>", "&bomb;<uuid>"),
        second(B).replace(B, f"{B}<!DOCTYPE a>"),
        random.Random(1).randbytes(512),
        bytes(512),
    ],
)
def test_a_disk_that_cannot_be_read_is_left_out_and_then_mended(bad: str | bytes) -> None:
    raw = of_others((first("a"), second(A)), (first("b"), bad), (first("c"), second(C)))
    assert set(described(raw)) == {A, C}
    disks = {**described(raw), D: Described(D, "d")}
    raw = mgt.following(raw, ABOUT, Catalogue(disks=disks), nothing)
    assert dict(described(raw)) == {
        each: replace(disk, snapshot_time=disk.snapshot_time or NO_TIME)
        for each, disk in disks.items()
    }
    etree.fromstring(b"<all>" + raw[1024:] + b"</all>")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\0",
        b"XSSM",
        b"XSSM:12        :1:2",
        b"XSSM:2047      :1:2",
        b"XSSM:9999999999:1:2",
        b"XSSM:99999999999999:1:2",
        b"XSSM:-4096     :1:2",
        b"XSSM:4096:x:2",
        random.Random(2).randbytes(512),
    ],
)
def test_a_header_that_is_none(header: bytes) -> None:
    with pytest.raises(mgt.Damaged):
        mgt.used(header.ljust(512), SIZE)


def test_a_later_version_is_not_touched() -> None:
    with pytest.raises(mgt.Unknown):
        mgt.used(b"XSSM:4096      :2:0".ljust(512), SIZE)


TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",)) | st.sampled_from("&<>\r\n\t\0\x1f]"),
    max_size=600,
)
DISK = st.builds(
    Described,
    uuid=st.uuids().map(str),
    name_label=TEXT,
    name_description=TEXT,
    type=st.sampled_from(["user", "metadata", "ha_statefile"]),
    is_a_snapshot=st.booleans(),
    snapshot_of=st.just("") | st.uuids().map(str),
    snapshot_time=st.sampled_from(["19700101T00:00:00Z", "20240131T12:00:00Z"]),
    read_only=st.booleans(),
    managed=st.booleans(),
    metadata_of_pool=st.just("") | st.uuids().map(lambda each: f"OpaqueRef:{each}"),
    vdi_type=st.sampled_from(["aio", "vhd"]),
)


def cut(disk: Described, found: Described) -> None:
    """What was read of a disk is what was written, but for what had to be cut."""
    label, description = mgt_text.legal(disk.name_label), mgt_text.legal(disk.name_description)
    assert label.startswith(found.name_label)
    assert description.startswith(found.name_description)
    assert replace(found, name_label="", name_description="") == replace(
        disk, name_label="", name_description=""
    )
    size = sum(len(mgt_text.fitted(text, 1 << 20).encode()) for text in (label, description))
    if size <= mgt_text.NAMES_ROOM:
        assert (found.name_label, found.name_description) == (label, description)
    else:
        kept = mgt_text.fitted(found.name_label + found.name_description, 1 << 20)
        assert len(kept.encode()) > mgt_text.NAMES_ROOM - 12, "more was cut than had to be"


@settings(max_examples=60, deadline=None)
@given(st.lists(DISK, max_size=6), TEXT, TEXT)
@example(
    [Described(A, "€" * 300, "&" * 300, snapshot_time="19700101T00:00:00Z")], "&" * 99, "é" * 400
)
def test_round_trip(disks: list[Described], label: str, description: str) -> None:
    catalogue = Catalogue(label, description, {disk.uuid: disk for disk in disks})
    raw = mgt.following(b"", ABOUT, catalogue, nothing)
    assert mgt.used(raw[:512], SIZE) == len(raw)
    about, found = mgt.read(raw)
    assert about == ABOUT
    assert mgt_text.legal(label).startswith(found.name_label)
    assert mgt_text.legal(description).startswith(found.name_description)
    assert set(found.disks) == set(catalogue.disks)
    for uuid_, disk in catalogue.disks.items():
        cut(disk, found.disks[uuid_])
    assert mgt.following(raw, ABOUT, catalogue, nothing) == raw
    # As a strict reader of the old kind takes it: all sectors inside of one element.
    document = etree.fromstring(b"<all>" + raw[1024:] + b"</all>")
    assert len(document.findall("vdi")) == len(found.disks)


def test_disks_stay_where_they_are_and_places_are_used_again() -> None:
    disks = {each: Described(each, each[-1]) for each in (A, B, C)}
    raw = mgt.following(b"", ABOUT, Catalogue(disks=disks), nothing)
    less = mgt.following(raw, ABOUT, Catalogue(disks={A: disks[A], C: disks[C]}), nothing)
    assert len(less) == len(raw)
    assert list(described(less)) == [A, C]
    assert b"<deleted>1</deleted>" in less[3072:4096]
    assert less[2048 + 1024 : 2048 + 1024 + 512] == raw[2048 + 1024 : 2048 + 1024 + 512]
    assert mgt.following(less, ABOUT, Catalogue(disks={A: disks[A], C: disks[C]}), nothing) == less
    more = {A: disks[A], C: disks[C], D: Described(D), E: Described(E)}
    again = mgt.following(less, ABOUT, Catalogue(disks=more), nothing)
    assert list(described(again)) == [A, D, C, E]


def test_a_place_is_not_given_away_before_it_is_free() -> None:
    raw = mgt.following(b"", ABOUT, Catalogue(disks={A: Described(A)}), nothing)
    wanted = mgt.following(raw, ABOUT, Catalogue(disks={B: Described(B)}), nothing)
    assert len(wanted) == len(raw) + 1024
    assert list(described(wanted)) == [B]


def test_what_is_kept_is_not_touched() -> None:
    raw = of_others((first("a"), second(A)), (first("b"), second(B)), (first("a"), second(A)))
    wanted = mgt.following(raw, ABOUT, Catalogue(), lambda each: each == A)
    assert wanted[2048:3072] == raw[2048:3072]
    assert list(described(wanted)) == [A]


def test_too_many_disks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mgt, "MOST", mgt.FIRST_DISK + mgt.EACH)
    disks = {each: Described(each) for each in (A, B)}
    with pytest.raises(ValueError, match="2 disks take"):
        mgt.following(b"", ABOUT, Catalogue(disks=disks), nothing)


def _states(before: bytes, raw: bytes, wanted: bytes) -> list[bytes]:
    """The volume after each sector of each write, and before all."""
    volume = bytearray(before)
    states = [bytes(volume)]
    for offset, block in mgt.writes(raw, wanted, len(volume)):
        for start in range(0, len(block), 512):
            volume[offset + start : offset + start + 512] = block[start : start + 512]
            states.append(bytes(volume))
    return states


def _catalogue(names: Mapping[str, str]) -> Catalogue:
    return Catalogue("sr", "", {each: Described(each, name) for each, name in names.items()})


OLD = {str(uuid.UUID(int=number)): f"old {number}" for number in range(20)}
CHANGES = {
    "renamed": {**OLD, **dict.fromkeys(list(OLD)[3:5], "new")},
    "added": {**OLD, **{str(uuid.UUID(int=number)): "new" for number in range(50, 60)}},
    "replaced": {
        **dict(list(OLD.items())[5:]),
        **{str(uuid.UUID(int=number)): "new" for number in range(70, 75)},
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_crash_at_any_sector_is_noticed_and_mended(change: str) -> None:
    """Each disk has its name of before or of now, and what comes next writes what is missing."""
    names, new = {**OLD, **CHANGES[change]}, CHANGES[change]
    # Behind what is in use lies what others have left there.
    stale = (first("stale"), second(str(uuid.UUID(int=50))))
    before = bytearray(of_others(*[stale] * 62))
    raw = mgt.following(b"", ABOUT, _catalogue(OLD), nothing)
    for offset, block in mgt.writes(b"", raw, len(before)):
        before[offset : offset + len(block)] = block
    wanted = mgt.following(raw, ABOUT, _catalogue(new), nothing)
    states = _states(bytes(before), raw, wanted)
    assert len(states) > 16
    for number, volume in enumerate(states):
        used = volume[: mgt.used(volume[:512], len(volume))]
        sealed = bool(mgt.is_sealed(used, volume[-4096:]))
        assert sealed == ((used == raw) if number < len(states) - 8 else (used == wanted)), number
        for each, disk in described(used).items():
            assert disk.name_label in {names[each], OLD.get(each)}, number
        again = mgt.following(used, ABOUT, _catalogue(new), nothing)
        mended = _states(volume, used, again)[-1]
        assert {
            each: disk.name_label for each, disk in described(mended[: len(again)]).items()
        } == new
        assert mgt.is_sealed(mended[: len(again)], mended[-4096:])


def test_writes_are_only_those_of_blocks_that_differ() -> None:
    raw = mgt.following(b"", ABOUT, _catalogue(OLD), nothing)
    names = {**OLD, list(OLD)[9]: "new"}
    wanted = mgt.following(raw, ABOUT, _catalogue(names), nothing)
    writes = list(mgt.writes(raw, wanted, SIZE))
    assert [(offset, len(block)) for offset, block in writes] == [(8192, 4096), (SIZE - 4096, 4096)]
    assert writes[-1][1].startswith(f"sm-names 1 {len(wanted)} {zlib.crc32(wanted):08x}".encode())


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=8192), st.integers(0, 7))
def test_any_content_is_read_in_the_end(noise: bytes, at: int) -> None:
    raw = bytearray(of_others((first("a"), second(A)), (first("b"), second(B))))
    raw[512 * at : 512 * at + len(noise)] = noise
    mgt.read(bytes(raw))
    wanted = mgt.following(bytes(raw), ABOUT, _catalogue(OLD), nothing)
    assert {each: disk.name_label for each, disk in described(wanted).items()} == OLD
