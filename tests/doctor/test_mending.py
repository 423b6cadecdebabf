"""Disorder of each kind, made on a real SR, found under its code, and mended with nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from sm import keys
from tests.doctor.scene import Scene, codes, examine
from tests.support.site import MIB


def _lose_record(scene: Scene) -> None:
    scene.repository.pool.forget_vdi(scene.record(scene.snapshot))


def _false_record(scene: Scene) -> None:
    scene.repository.pool.update_vdi(scene.record(scene.disk), virtual_size=17 * MIB)


def _false_parent(scene: Scene) -> None:
    pool, ref = scene.repository.pool, scene.record(scene.disk)
    pool.remove_from_vdi_sm_config(ref, keys.PARENT)
    pool.add_to_vdi_sm_config(ref, keys.PARENT, scene.snapshot)


def _show_hidden(scene: Scene) -> None:
    base = scene.site.sm("vdi", "show", scene.disk)["parent"]
    scene.repository.pool.update_vdi(scene.record(base), managed=True)


def _hide_visible(scene: Scene) -> None:
    scene.repository.pool.update_vdi(scene.record(scene.disk), managed=False)


def _false_name(scene: Scene) -> None:
    scene.repository.pool.update_vdi(scene.record(scene.snapshot), name_label="before the update")


def _torn_names(scene: Scene) -> None:
    file = scene.folder / ".sm" / "catalogue.json"
    file.write_bytes(file.read_bytes()[:-20])


def _leave_file(scene: Scene) -> None:
    (scene.folder / ".new-left").write_bytes(b"x" * 4096)


def _stale_mark(scene: Scene) -> None:
    pool = scene.repository.pool
    pool.add_to_vdi_sm_config(scene.record(scene.disk), keys.ACTIVATING, scene.gone())


def _foreign_mark(scene: Scene) -> None:
    scene.repository.pool.add_to_vdi_sm_config(scene.record(scene.disk), "paused", "true")


def _foreign_activating(scene: Scene) -> None:
    pool = scene.repository.pool
    pool.add_to_vdi_sm_config(scene.record(scene.disk), keys.ACTIVATING, "True")


def _stale_key(scene: Scene) -> None:
    pool = scene.repository.pool
    key = keys.host_key(pool.this_host().ref)
    pool.add_to_vdi_sm_config(scene.record(scene.disk), key, "RW")


def _stale_claim(scene: Scene) -> None:
    value = {"id": "1", "images": [scene.disk], "owner": scene.gone()}
    pool = scene.repository.pool
    key = f"{keys.CHANGE_PREFIX}{scene.disk}"
    pool.add_to_sr_sm_config(scene.repository.record.ref, key, json.dumps(value))


def _stale_merge_claim(scene: Scene) -> None:
    value = {"id": "1", "images": [scene.disk], "owner": scene.gone()}
    pool = scene.repository.pool
    key = f"{keys.CLAIM_PREFIX}{scene.disk}"
    pool.add_to_sr_sm_config(scene.repository.record.ref, key, json.dumps(value))


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("code", "damage"),
    [
        ("image-without-record", _lose_record),
        ("record-differs", _false_record),
        ("record-differs", _false_parent),
        ("hidden-but-shown", _show_hidden),
        ("visible-but-unmanaged", _hide_visible),
        ("names-differ", _false_name),
        ("names-differ", _torn_names),
        ("leftover-file", _leave_file),
        ("stale-activating", _stale_mark),
        ("foreign-mark", _foreign_mark),
        ("foreign-mark", _foreign_activating),
        ("key-without-process", _stale_key),
        ("stale-claim", _stale_claim),
        ("stale-claim", _stale_merge_claim),
    ],
)
def test_damage_is_found_and_mended(
    scene: Scene, code: str, damage: Callable[[Scene], None]
) -> None:
    damage(scene)
    images = scene.site.images(scene.sr)
    assert codes(scene.site) == [code]
    assert scene.site.sm("explain", code)["text"]
    document = scene.site.sm("doctor", "--fix", "--yes")
    assert document["healthy"]
    assert [each["problem"] for each in document["mended"]] == [None]
    assert scene.site.images(scene.sr) == images
    scene.verify()
    log = (scene.site.root / "log" / "sm.log").read_text()
    assert f"doctor: SR {scene.sr}: {document['mended'][0]['action']}" in log
    assert scene.site.activate(scene.disk)


def test_the_command_that_is_named_mends_too(scene: Scene) -> None:
    for damage in (_stale_key, _false_record, _leave_file):
        damage(scene)
        ((_, (finding,)),) = [examine(scene.site)]
        words = finding["mend"].split()
        assert words[0] == "sm"
        assert scene.site.run(*words[1:])[0] == 0
        assert codes(scene.site) == []
    scene.verify()
