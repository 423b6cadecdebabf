"""A disk that is active while the collector works below it, and a model of what it must hold."""

from __future__ import annotations

from sm.cowutil.registry import Formats
from sm.datapath.choose import Datapaths
from sm.process import run
from tests.datapath.clients import content, qemu_io
from tests.support import guest
from tests.support.guest import Model
from tests.support.saved import Saved
from tests.support.site import MIB, Site

SIZE = 8 * MIB


class ActiveScene:
    """An SR with one disk that is in use, and its snapshots. All writes go through the datapath."""

    def __init__(self, site: Site, image_format: str, size: int = SIZE) -> None:
        self.site = site
        self.sr = site.create_sr()
        self.image_format = image_format
        self.size = size
        self.disk = site.create_vdi(self.sr, image_format, size)
        self.models: dict[str, Model] = {self.disk: Model(size)}
        self.uri = site.activate(self.disk)

    def write(self, offset: int, length: int, byte: int) -> None:
        """The guest writes to the disk, and flushes."""
        qemu_io(self.uri, f"write -P {byte} {offset} {length}", "flush")
        self.models[self.disk].data[offset : offset + length] = bytes([byte]) * length

    def snapshot(self) -> str:
        """Keep the present content."""
        uuid = self.site.snapshot(self.disk)
        self.models[uuid] = self.models[self.disk].copy()
        return uuid

    def delete(self, *uuids: str) -> None:
        """Delete snapshots."""
        for uuid in uuids:
            self.site.delete(uuid)
            del self.models[uuid]

    def collect(self) -> dict[str, object]:
        """Run the collector to its end; returns its report."""
        report: dict[str, object] = self.site.sm("gc", "run", "--sr", self.sr)
        return report

    def verify_active(self) -> None:
        """The disk in use reads as its guest wrote it, seen through the datapath."""
        assert content(self.uri, self.size) == self.models[self.disk].data

    def verify(self, *, crashed: bool = False) -> None:
        """With nothing in use, every disk reads as it should, and every image is sound.

        With `crashed`, images are repaired first: data of writes that a killed process had not
        completed is still in a VHD, where qemu would show it in spite of the sector bitmaps.
        """
        self.site.deactivate(self.disk)
        if crashed:
            for image in self.site.chain(self.sr, self.disk):
                Formats(run).get(image.format).repair(image.path)
        for uuid, model in self.models.items():
            chain = self.site.chain(self.sr, uuid)
            assert guest.content(chain) == model.data, f"content of {uuid}"
            assert guest.check_clean(chain) == []

    def verify_tidy(self, images: int) -> None:
        """Nothing is left of the work or of its interruption."""
        repository = self.site.repository(self.sr)
        assert repository.journal.entries() == []
        kept = repository.pool.sr_by_uuid(self.sr).sm_config
        assert not [key for key in kept if key.startswith(("coalescing-", "changing-"))]
        forest = repository.look("test").forest
        assert len(forest.nodes) == images
        visible = {node.uuid for node in forest if not node.hidden}
        assert visible == set(self.models)
        assert set(repository.vdis()) == set(forest.nodes)
        assert not list((repository.settings.run / "gc").glob("*.yield"))

    def datapath_pid(self) -> int:
        """The process that serves the disk."""
        (served,) = Datapaths(self.site.repository(self.sr).settings).served()
        return served.endpoint.pid


class SavedScene:
    """A scene whose disk was taken out of use and saved, to be had in use again and again."""

    def __init__(self, scene: ActiveScene) -> None:
        scene.site.deactivate(scene.disk)
        self._scene = scene
        self._models = {uuid: model.copy() for uuid, model in scene.models.items()}
        self._saved = Saved(scene.site)

    def again(self) -> ActiveScene:
        """The scene as it was, with its disk in use."""
        self._saved.restore()
        self._scene.models = {uuid: model.copy() for uuid, model in self._models.items()}
        self._scene.uri = self._scene.site.activate(self._scene.disk)
        return self._scene


def coalesce_scene(site: Site, image_format: str) -> tuple[ActiveScene, int]:
    """A run of two deleted snapshots below an active disk that keeps a newest one.

    Returns the scene and how many images must be left.
    """
    scene = ActiveScene(site, image_format)
    scene.write(0, 2 * MIB, 1)
    scene.snapshot()
    scene.write(MIB, 2 * MIB, 2)
    second = scene.snapshot()
    scene.write(3 * MIB, MIB + 4096, 3)
    third = scene.snapshot()
    scene.write(MIB, 4096, 4)
    scene.snapshot()
    scene.write(2 * MIB, 8192, 5)
    scene.delete(second, third)
    return scene, 5
