"""What the embedded pool keeps beyond the contract, in each database: records of administrators."""

import pytest

from sm.errors import HostUnreachable, PoolError, RecordMissing, SrInUse
from sm.pool.base import NewVdi, Pool, PoolAdmin
from sm.pool.embedded import EmbeddedPool
from sm.pool.errors import RecordExists, UnstorableText
from tests.pool.conftest import HOST_UUID, PoolSite

VDI_UUID = "8a3f5a5e-3e0c-4c0e-8f2d-000000000001"


@pytest.fixture
def admin(kept: PoolSite) -> PoolAdmin:
    assert isinstance(kept.pool, PoolAdmin)
    return kept.pool


def test_hosts_share_a_database(kept: PoolSite) -> None:
    with EmbeddedPool(kept.place, "another", "there") as other:
        assert other.this_host().name_label == "there"
        assert [host.name_label for host in other.hosts()] == ["here", "there"]
    assert kept.pool.this_host().name_label == "here"
    assert len(kept.pool.hosts()) == 2


def test_text_that_is_no_unicode_is_refused(kept: PoolSite) -> None:
    with pytest.raises(UnstorableText):
        kept.pool.introduce_vdi(NewVdi(VDI_UUID, kept.sr_ref, 1, name_label="\udcff"))
    assert kept.pool.vdis(kept.sr_ref) == []


def test_an_interrupted_write_leaves_nothing(kept: PoolSite) -> None:
    bad = {"good": "value", "bad": "\udcff"}
    with pytest.raises(UnstorableText):
        kept.pool.introduce_vdi(NewVdi(VDI_UUID, kept.sr_ref, 1, sm_config=bad))
    assert kept.pool.vdis(kept.sr_ref) == []
    kept.pool.introduce_vdi(NewVdi(VDI_UUID, kept.sr_ref, 1))


def test_the_administrator_keeps_srs(admin: PoolAdmin) -> None:
    sr = admin.introduce_sr(
        uuid="sr-2", sr_type="nfs", name_label="n", shared=True, sm_config={"nosubdir": "true"}
    )
    with pytest.raises(RecordExists):
        admin.introduce_sr(uuid="sr-2", sr_type="nfs")
    admin.rename_sr(sr, name_label="new", name_description="words")
    record = admin.sr(sr)
    assert (record.name_label, record.name_description) == ("new", "words")
    assert (record.type, record.shared, record.sm_config) == ("nfs", True, {"nosubdir": "true"})
    host = admin.add_host("host-2", "second")
    pbd = admin.create_pbd(sr, host, {"server": "s"})
    with pytest.raises(RecordExists):
        admin.create_pbd(sr, host, {})
    with pytest.raises(RecordExists):
        admin.add_host("host-2", "again")
    admin.set_pbd_attached(pbd, True)
    with pytest.raises(SrInUse):
        admin.delete_pbd(pbd)
    admin.set_pbd_attached(pbd, False)
    admin.delete_pbd(pbd)
    assert admin.pbds(sr) == []


def test_a_forgotten_sr_takes_its_records_with_it(kept: PoolSite, admin: PoolAdmin) -> None:
    other = admin.introduce_sr(uuid="sr-2", sr_type="file")
    staying = admin.introduce_vdi(NewVdi("staying", other, 1))
    admin.introduce_vdi(NewVdi("gone", kept.sr_ref, 1, sm_config={"a": "b"}))
    admin.create_task("t", kept.sr_ref)
    admin.forget_sr(kept.sr_ref)
    assert [sr.uuid for sr in admin.srs()] == ["sr-2"]
    assert admin.pbds(kept.sr_ref) == []
    assert admin.vdis(kept.sr_ref) == []
    assert admin.tasks(kept.sr_ref) == []
    assert admin.vdi(staying).uuid == "staying"


def test_the_administrator_is_told_what_is_missing(admin: PoolAdmin, kept: PoolSite) -> None:
    host = admin.this_host().ref
    for attempt in (
        lambda: admin.forget_sr("no"),
        lambda: admin.rename_sr("no", name_label="", name_description=""),
        lambda: admin.create_pbd("no", host, {}),
        lambda: admin.create_pbd(kept.sr_ref, "no", {}),
        lambda: admin.set_pbd_attached("no", True),
        lambda: admin.delete_pbd("no"),
        lambda: admin.create_task("t", "no"),
    ):
        with pytest.raises(RecordMissing):
            attempt()


def test_a_rule_of_the_tables_is_a_pool_error(kept: PoolSite) -> None:
    with pytest.raises(PoolError, match="virtual_size"):
        kept.pool.introduce_vdi(NewVdi(VDI_UUID, kept.sr_ref, None))  # type: ignore[arg-type]
    pool: Pool = kept.pool
    assert pool.vdis(kept.sr_ref) == []


def test_a_host_says_where_it_answers(admin: PoolAdmin) -> None:
    here = admin.this_host().ref
    admin.set_host_address(here, "unix:/run/x")
    assert admin.this_host().address == "unix:/run/x"
    other = admin.add_host("host-2", "second")
    for ref in (here, other):  # neither has a service
        with pytest.raises(HostUnreachable, match=admin.hosts()[0].uuid + "|host-2"):
            admin.call_host(ref, "look", {})
    for missing in (
        lambda: admin.set_host_address("no", ""),
        lambda: admin.call_host("no", "look", {}),
        lambda: admin.remove_host("no"),
    ):
        with pytest.raises(RecordMissing):
            missing()


def test_a_shared_sr_has_the_host_that_made_it_as_master(kept: PoolSite, admin: PoolAdmin) -> None:
    admin.set_pbd_attached(admin.pbds(kept.sr_ref)[0].ref, False)
    sr = admin.introduce_sr(uuid="sr-2", sr_type="file", shared=True)
    assert admin.is_sr_master(admin.sr(sr))
    with EmbeddedPool(kept.place, "host-2", "there") as other:
        assert not other.is_sr_master(other.sr(sr))
        pbd = other.create_pbd(sr, other.this_host().ref, {})
        other.set_pbd_attached(pbd, True)
        with pytest.raises(SrInUse, match="SR sr-2"):
            other.remove_host(admin.this_host().ref)
        there = other.this_host().ref
    with pytest.raises(SrInUse, match="PBD"):
        admin.remove_host(there)
    admin.set_pbd_attached(pbd, False)
    admin.remove_host(there)
    assert admin.pbds(sr) == []
    assert [host.uuid for host in admin.hosts()] == [HOST_UUID]
