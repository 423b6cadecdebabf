"""A defect, or a damaged image, in one piece of work ends that piece and no service."""

from __future__ import annotations

import signal
import subprocess
import sys

from sm.gc.state.ledger import Ledger
from tests.gc.active import ActiveScene
from tests.gc.killed import killed_at
from tests.support.patience import patient, until
from tests.support.site import MIB, Site

DEFECT = (
    "import sys\n"
    "from sm.gc.merges import coalesce\n"
    "from sm.gc.daemon import main\n"
    "real = coalesce.remove_images\n"
    "def broken(repository, images):\n"
    "    if sys.argv[1] in images: raise AssertionError('a fault of ours')\n"
    "    return real(repository, images)\n"
    "coalesce.remove_images = broken\n"
    "sys.exit(main(sys.argv[2:]))\n"
)


def test_a_defect_in_one_job_of_the_collector(site: Site) -> None:
    """Others of the SR are done, the service goes on, and the history says what happened."""
    sr = site.create_sr()
    first, second = (site.create_vdi(sr, "qcow2") for _ in range(2))
    site.delete(first)
    command = [sys.executable, "-c", DEFECT, first, "--sr", sr]
    worker = subprocess.Popen(command, env=site.environment)
    ledger = Ledger(site.root / "gc.db")
    try:
        until(lambda: ledger.history(sr, 10))
        site.delete(second)
        until(lambda: second not in site.images(sr))
        assert worker.poll() is None
    finally:
        worker.send_signal(signal.SIGTERM)
        status = worker.wait(patient(20))
    assert status == 0
    jobs = {job.images: job for job in ledger.history(sr, 10)}
    assert jobs[(first,)].code == "defect"
    assert "a fault of ours" in jobs[(first,)].reason
    assert site.sm("explain", "defect")["text"]
    site.sm("gc", "run", "--sr", sr)
    assert site.images(sr) == set()


def test_a_damaged_image_does_not_keep_the_host_service_from_starting(site: Site) -> None:
    """It is in the way of users that are held; those of another SR are let go."""
    scene = ActiveScene(site, "vhd")
    scene.write(0, 2 * MIB, 1)
    snapshot = scene.snapshot()
    scene.write(MIB, MIB, 2)
    scene.delete(snapshot)
    killed_at(site, scene.sr, "leaf-switch: unhide")
    repository = site.repository(scene.sr)
    (entry,) = repository.journal.entries()
    base = repository.store.path(entry.data["into"], "vhd")
    content = base.read_bytes()
    broken = bytearray(content)
    broken[:1536], broken[-512:] = bytes(1536), bytes(512)
    base.write_bytes(broken)
    service = subprocess.Popen(
        [sys.executable, "-m", "sm.hosts.service"], env=site.environment, stderr=subprocess.PIPE
    )
    try:
        log = site.root / "log" / "sm.log"
        until(lambda: service.poll() is not None or "cannot go on yet" in log.read_text())
        assert service.poll() is None
    finally:
        service.send_signal(signal.SIGTERM)
        _, said = service.communicate(timeout=patient(40))
    assert (service.returncode, said) == (0, b"")
    base.write_bytes(content)
    site.deactivate(scene.disk)
