"""What every pool database must do, whichever it is."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sm.errors import DuplicateKey, InvalidArgument, RecordMissing
from sm.pool.base import NULL_REF, NewVdi, TaskStatus
from sm.pool.errors import RecordExists
from tests.pool.conftest import PoolSite

VDI_UUID = "8a3f5a5e-3e0c-4c0e-8f2d-000000000001"
OTHER_UUID = "8a3f5a5e-3e0c-4c0e-8f2d-000000000002"
NOWHERE = "OpaqueRef:00000000-0000-4000-8000-000000000000"

NAMES = [
    "",
    " blank around ",
    "Zürich 東京 🗄 \u202eright to left",
    'it\'s "quoted" \\ and `more`',
    "line\nline\ttab",
    "<value>&amp;</value>]]>",
    "'; DROP TABLE vdi; --",
    "x" * 100_000,
]


def introduce(site: PoolSite, uuid: str = VDI_UUID) -> str:
    return site.pool.introduce_vdi(NewVdi(uuid, site.sr_ref, 1 << 30))


def test_this_host_is_found_among_the_hosts(site: PoolSite) -> None:
    host = site.pool.this_host()
    assert (host.uuid, host.name_label, host.enabled) == (site.host_uuid, "here", True)
    assert site.pool.hosts() == [host]
    assert site.again().this_host() == host


def test_an_sr_is_found_by_reference_and_by_uuid(site: PoolSite) -> None:
    sr = site.pool.sr(site.sr_ref)
    assert (sr.ref, sr.uuid, sr.type) == (site.sr_ref, site.sr_uuid, "file")
    assert (sr.name_label, sr.shared) == ("disks", False)
    assert site.pool.sr_by_uuid(site.sr_uuid) == sr
    assert site.pool.srs() == [sr]
    assert site.pool.is_sr_master(sr)


def test_a_pbd_says_how_this_host_reaches_the_sr(site: PoolSite) -> None:
    [pbd] = site.pool.pbds(site.sr_ref)
    assert (pbd.sr, pbd.host) == (site.sr_ref, site.pool.this_host().ref)
    assert pbd.device_config == {"location": "/srv/pool0"}
    assert pbd.currently_attached
    assert site.pool.pbds(NOWHERE) == []


def test_sr_sizes_beyond_32_bits(site: PoolSite) -> None:
    site.pool.set_sr_sizes(
        site.sr_ref, virtual_allocation=1 << 50, physical_size=(1 << 40) + 1, physical_utilisation=0
    )
    sr = site.again().sr(site.sr_ref)
    assert (sr.virtual_allocation, sr.physical_size) == (1 << 50, (1 << 40) + 1)
    assert sr.physical_utilisation == 0


def test_every_field_of_a_vdi_comes_back(site: PoolSite) -> None:
    first = introduce(site, OTHER_UUID)
    new = NewVdi(
        uuid=VDI_UUID,
        sr=site.sr_ref,
        virtual_size=(16 << 40) + 512,
        name_label="name",
        name_description="description",
        type="system",
        sharable=True,
        read_only=True,
        managed=False,
        location="elsewhere",
        physical_utilisation=(5 << 32) + 1,
        metadata_of_pool="OpaqueRef:pool",
        is_a_snapshot=True,
        snapshot_of=first,
        snapshot_time="20240131T12:34:56Z",
        cbt_enabled=True,
        sm_config={"vhd-parent": OTHER_UUID, "image-format": "qcow2"},
        other_config={"content_id": "1"},
        xenstore_data={"vdi-uuid": VDI_UUID},
    )
    ref = site.pool.introduce_vdi(new)
    record = site.again().vdi(ref)
    for name in NewVdi.__dataclass_fields__:
        if name != "xenstore_data":
            assert getattr(record, name) == getattr(new, name), name
    assert (record.ref, record.missing, record.on_boot) == (ref, False, "persist")
    assert record.allow_caching is False
    assert site.pool.vdi_by_uuid(VDI_UUID) == record
    assert record in site.pool.vdis(site.sr_ref)


def test_a_plain_vdi_has_its_uuid_as_location_and_no_snapshot_time(site: PoolSite) -> None:
    record = site.pool.vdi(introduce(site))
    assert record.location == VDI_UUID
    assert (record.snapshot_of, record.snapshot_time) == (NULL_REF, "")
    assert (record.sm_config, record.other_config) == ({}, {})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2024-01-31T12:34:56Z", "20240131T12:34:56Z"),
        ("20240131T12:34:56Z", "20240131T12:34:56Z"),
        ("2024-01-31T14:34:56+02:00", "20240131T12:34:56Z"),
        ("19700101T00:00:00Z", ""),
        ("", ""),
    ],
)
def test_snapshot_times_have_one_form(site: PoolSite, given: str, kept: str) -> None:
    ref = site.pool.introduce_vdi(NewVdi(VDI_UUID, site.sr_ref, 1, snapshot_time=given))
    assert site.pool.vdi(ref).snapshot_time == kept
    other = introduce(site, OTHER_UUID)
    site.pool.update_vdi(other, snapshot_time="20200101T00:00:00Z")
    site.pool.update_vdi(other, snapshot_time=given)
    assert site.pool.vdi(other).snapshot_time == kept


def test_a_time_that_is_none_is_refused(site: PoolSite) -> None:
    with pytest.raises(InvalidArgument, match="yesterday"):
        site.pool.introduce_vdi(NewVdi(VDI_UUID, site.sr_ref, 1, snapshot_time="yesterday"))
    assert site.pool.vdis(site.sr_ref) == []


@pytest.mark.parametrize("name", NAMES)
def test_unusual_names(site: PoolSite, name: str) -> None:
    new = NewVdi(
        VDI_UUID,
        site.sr_ref,
        1,
        name_label=name,
        name_description=name,
        other_config={name or "key": name},
    )
    ref = site.pool.introduce_vdi(new)
    site.pool.add_to_vdi_sm_config(ref, name or "key", name)
    record = site.again().vdi(ref)
    assert (record.name_label, record.name_description) == (name, name)
    assert record.sm_config == record.other_config == {name or "key": name}
    site.pool.remove_from_vdi_sm_config(ref, name or "key")
    site.pool.update_vdi(ref, name_label=f"{name}+")
    assert site.pool.vdi(ref).name_label == f"{name}+"
    assert site.pool.vdi(ref).sm_config == {}


def test_a_uuid_is_introduced_once(site: PoolSite) -> None:
    ref = introduce(site)
    with pytest.raises(RecordExists):
        introduce(site)
    assert [record.ref for record in site.pool.vdis(site.sr_ref)] == [ref]


def test_a_forgotten_vdi_is_gone_with_its_maps(site: PoolSite) -> None:
    ref = introduce(site)
    site.pool.add_to_vdi_sm_config(ref, "paused", "true")
    site.pool.forget_vdi(ref)
    assert site.pool.vdis(site.sr_ref) == []
    again = introduce(site)
    assert again != ref
    assert site.pool.vdi(again).sm_config == {}


def test_every_settable_field_is_set(site: PoolSite) -> None:
    ref = introduce(site)
    site.pool.add_to_vdi_sm_config(ref, "host_x", "RW")
    before = site.pool.vdi(ref)
    changes: dict[str, Any] = {
        "name_label": "a",
        "name_description": "b",
        "virtual_size": 1 << 42,
        "physical_utilisation": 77,
        "managed": False,
        "read_only": True,
        "is_a_snapshot": True,
        "snapshot_of": site.sr_ref,
        "snapshot_time": "20240131T12:34:56Z",
        "metadata_of_pool": "OpaqueRef:pool",
        "cbt_enabled": True,
        "missing": True,
    }
    site.pool.update_vdi(ref, **changes)
    assert site.again().vdi(ref) == replace(before, **changes)
    site.pool.update_vdi(ref, managed=True, missing=False)
    after = site.pool.vdi(ref)
    assert after == replace(before, **{**changes, "managed": True, "missing": False})


@pytest.mark.parametrize("change", [{"sm_config": "x"}, {"virtual_size": "1"}, {"managed": 1}])
def test_what_cannot_be_set_is_refused(site: PoolSite, change: dict[str, str | int]) -> None:
    ref = introduce(site)
    before = site.pool.vdi(ref)
    with pytest.raises(TypeError):
        site.pool.update_vdi(ref, **change)
    assert site.pool.vdi(ref) == before


@pytest.mark.parametrize("name", ["sm_config", "other_config"])
@pytest.mark.parametrize("owner", ["sr", "vdi"])
def test_a_key_is_added_once_and_never_overwritten(site: PoolSite, owner: str, name: str) -> None:
    pool = site.pool
    ref = introduce(site) if owner == "vdi" else site.sr_ref
    add: Callable[[str, str, str], None] = getattr(pool, f"add_to_{owner}_{name}")
    remove: Callable[[str, str], None] = getattr(pool, f"remove_from_{owner}_{name}")

    def read() -> dict[str, str]:
        return dict(getattr(getattr(pool, owner)(ref), name))

    add(ref, "key", "first")
    for value in ("first", "second"):
        with pytest.raises(DuplicateKey):
            add(ref, "key", value)
    add(ref, "Key", "other")
    assert read() == {"key": "first", "Key": "other"}
    remove(ref, "key")
    remove(ref, "key")
    assert read() == {"Key": "other"}
    add(ref, "key", "third")
    assert read() == {"key": "third", "Key": "other"}


def test_threads_racing_for_a_key_let_one_in(site: PoolSite) -> None:
    ref = introduce(site)
    for number in range(20):
        won: list[int] = []
        start = threading.Barrier(4)

        def race(me: int, key: str, start: threading.Barrier, won: list[int]) -> None:
            start.wait()
            try:
                site.pool.add_to_vdi_sm_config(ref, key, str(me))
            except DuplicateKey:
                return
            won.append(me)

        racers = [
            threading.Thread(target=race, args=(me, f"key{number}", start, won)) for me in range(4)
        ]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert [str(me) for me in won] == [site.pool.vdi(ref).sm_config[f"key{number}"]]


def test_missing_records_are_named(site: PoolSite) -> None:
    pool = site.pool
    for attempt in (
        lambda: pool.sr(NOWHERE),
        lambda: pool.sr_by_uuid(VDI_UUID),
        lambda: pool.vdi(NOWHERE),
        lambda: pool.vdi_by_uuid(VDI_UUID),
        lambda: pool.vdi(site.sr_ref),
        lambda: pool.forget_vdi(NOWHERE),
        lambda: pool.update_vdi(NOWHERE, managed=True),
        lambda: pool.introduce_vdi(NewVdi(VDI_UUID, NOWHERE, 1)),
        lambda: pool.add_to_vdi_sm_config(NOWHERE, "a", "b"),
        lambda: pool.remove_from_vdi_sm_config(NOWHERE, "a"),
        lambda: pool.add_to_sr_other_config(NOWHERE, "a", "b"),
        lambda: pool.remove_from_sr_other_config(NOWHERE, "a"),
        lambda: pool.set_task_progress(NOWHERE, 0.5),
        lambda: pool.finish_task(NOWHERE, TaskStatus.SUCCESS),
        lambda: pool.set_sr_sizes(
            NOWHERE, virtual_allocation=1, physical_size=1, physical_utilisation=1
        ),
    ):
        with pytest.raises(RecordMissing):
            attempt()
    assert pool.vdis(NOWHERE) == []
    assert pool.vdis('OpaqueRef:x" or not field "SR" = "') == []


def test_a_task_is_followed_to_its_end(site: PoolSite) -> None:
    pool = site.pool
    assert pool.tasks(site.sr_ref) == []
    ref = pool.create_task("coalescing", site.sr_ref)
    pool.set_task_progress(ref, 0.25)
    [task] = site.again().tasks(site.sr_ref)
    assert (task.ref, task.name_label, task.sr) == (ref, "coalescing", site.sr_ref)
    assert (task.progress, task.status) == (0.25, TaskStatus.PENDING)
    pool.finish_task(ref, TaskStatus.SUCCESS)
    assert [task.status for task in pool.tasks(site.sr_ref)] == [TaskStatus.SUCCESS]
    assert pool.tasks(NOWHERE) == []
    pool.destroy_task(ref)
    pool.destroy_task(ref)
    assert pool.tasks(site.sr_ref) == []


def test_a_closed_pool_opens_anew(site: PoolSite) -> None:
    ref = introduce(site)
    with site.pool as pool:
        assert pool.vdi(ref).uuid == VDI_UUID
    assert site.pool.vdi(ref).uuid == VDI_UUID
