"""Figures for Prometheus: what they say, how they are given out, and who uses their names."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sm import config
from sm.errors import InvalidArgument
from sm.gc.state.ledger import FinishedJob, Ledger, Result
from sm.gc.state.status import Delayed, State
from sm.gc.views import exporter
from sm.gc.views.measured import garbage_bytes
from sm.gc.views.metrics import families
from sm.tree import Forest, Node
from tests.gc.running import collector
from tests.support import guest, worker
from tests.support.patience import patient, until
from tests.support.site import MIB, Site

ETC = Path(__file__).resolve().parents[3] / "etc"

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped:
    """What one scrape says."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.figures: Figures = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def get(self, name: str, sr: str, /, **labels: str) -> float | None:
        return self.figures.get((name, frozenset({"sr": sr, **labels}.items())))

    def series(self, name: str) -> int:
        return sum(each == name for each, _ in self.figures)


def scrape(site: Site) -> Scraped:
    return Scraped(exporter.text(config.load(site.root)).decode())


def _chain(site: Site) -> tuple[str, str, str]:
    """An SR with a disk over a deleted snapshot: the disk, and that snapshot."""
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2")
    guest.write(site.chain(sr, disk), 0, MIB, 7)
    snapshot = site.snapshot(disk)
    guest.write(site.chain(sr, disk), MIB, 2 * MIB, 8)
    site.delete(snapshot)
    return sr, disk, snapshot


def _job(sr: str, number: int, **changed: object) -> FinishedJob:
    values: dict[str, object] = {
        "id": f"job-{number}",
        "sr": sr,
        "action": "coalesce",
        "images": ("a",),
        "began": 1.0,
        "seconds": 2.0,
        "result": Result.DONE,
        "bytes_copied": 100,
        "bytes_freed": 50,
        "pause_seconds": 0.25,
        **changed,
    }
    return FinishedJob(**values)  # type: ignore[arg-type]


def test_without_a_worker(site: Site) -> None:
    sr, disk, snapshot = _chain(site)
    found = scrape(site)
    path = site.chain(sr, disk)[0].path.with_name(f"{snapshot}.qcow2")
    assert found.get("sm_sr_up", sr, name="store") == 1
    assert found.get("sm_sr_images", sr, kind="hidden") == 2
    assert found.get("sm_sr_images", sr, kind="visible") == 1
    assert found.get("sm_sr_images", sr, kind="damaged") == 0
    assert found.get("sm_sr_garbage_bytes", sr) == path.stat().st_blocks * 512
    assert found.get("sm_sr_chain_depth_max", sr) == 2
    assert found.get("sm_sr_chain_limit", sr) == 30
    assert found.get("sm_sr_chains", sr, depth="2") == 1
    (plan,) = site.sm("gc", "plan")
    assert found.get("sm_gc_debt_bytes", sr) == plan["bytes_to_copy"] == MIB
    assert found.get("sm_gc_reclaimable_bytes", sr) == plan["bytes_freed"]
    assert found.get("sm_gc_planned_actions", sr, action="delete") == 1
    assert found.get("sm_gc_planned_actions", sr, action="leaf-coalesce") == 1
    assert found.get("sm_gc_worker_up", sr) == 0
    assert found.get("sm_gc_state", sr, state="stopped") == 1
    assert sum(found.get("sm_gc_state", sr, state=state.value) or 0 for state in State) == 1
    assert found.get("sm_gc_waiting_nodes", sr, code="stopped") == 2
    space = site.repository(sr).store.space()
    assert found.get("sm_sr_size_bytes", sr) == space.total
    assert found.series("sm_gc_next_attempt_timestamp_seconds") == 0
    site.sm("gc", "run", "--sr", sr)
    assert scrape(site).get("sm_gc_debt_bytes", sr) == 0


def test_with_a_worker(site: Site) -> None:
    sr, disk, _ = _chain(site)
    then = time.time() + 60
    waiting = (Delayed("x", "no-space", "", then), Delayed("y", "no-space", "", then + 60))
    said = worker.working(sr, worker.job((disk,), "b", 50, 200), waiting=waiting)
    said.write(worker.run_folder(site.root))
    found = scrape(site)
    assert found.get("sm_gc_worker_up", sr) == 1
    assert found.get("sm_gc_state", sr, state="working") == 1
    assert found.get("sm_gc_running_jobs", sr) == 1
    assert found.get("sm_gc_running_bytes", sr, part="done") == 50
    assert found.get("sm_gc_running_bytes", sr, part="total") == 200
    assert found.get("sm_gc_waiting_nodes", sr, code="no-space") == 2
    assert found.get("sm_gc_next_attempt_timestamp_seconds", sr) == pytest.approx(then)
    assert found.get("sm_gc_next_look_timestamp_seconds", sr) == pytest.approx(said.next_look)


def test_counters_are_of_all_jobs(site: Site) -> None:
    sr = site.create_sr()
    ledger = Ledger(site.root / "gc.db")
    ledger.finished(_job(sr, 1))
    ledger.finished(_job(sr, 2, bytes_copied=300))
    ledger.finished(_job(sr, 3, result=Result.FAILED, code="no-space", bytes_copied=0))
    ledger.finished(_job(sr, 4, result=Result.GAVE_WAY, code="overtaken"))
    ledger.finished(_job(sr, 5, action="delete", bytes_copied=0))
    ledger.failed(sr, "x", "no-space", "", time.time())
    found = scrape(site)
    assert found.get("sm_gc_jobs_total", sr, action="coalesce", result="done") == 2
    assert found.get("sm_gc_jobs_total", sr, action="coalesce", result="failed") == 1
    assert found.get("sm_gc_failures_total", sr, code="no-space") == 1
    assert found.series("sm_gc_failures_total") == 1
    assert found.get("sm_gc_copied_bytes_total", sr, action="coalesce") == 500
    assert found.get("sm_gc_freed_bytes_total", sr, action="coalesce") == 200
    assert found.get("sm_gc_job_seconds_total", sr, action="delete") == 2
    assert found.get("sm_gc_guest_pause_seconds_total", sr) == 1.25
    assert found.get("sm_gc_failing_nodes", sr, code="no-space") == 1
    assert found.get("sm_gc_speed_bytes_per_second", sr) == 100


def test_an_sr_that_cannot_be_read_hides_no_other(site: Site) -> None:
    first, second = site.create_sr("one"), site.create_sr("two")
    (site.folder / "one").rename(site.folder / "away")
    found = scrape(site)
    assert found.get("sm_sr_up", first, name="one") == 0
    assert found.get("sm_sr_up", second, name="two") == 1
    assert found.get("sm_sr_size_bytes", first) is None
    assert found.get("sm_gc_worker_up", first) is None
    assert found.get("sm_gc_worker_up", second) == 0
    site.sm("sr", "detach", second)
    assert scrape(site).get("sm_sr_up", second, name="two") is None


def test_garbage_is_what_no_disk_and_nothing_unreadable_sits_on() -> None:
    forest = Forest(
        [
            Node("base", "qcow2", hidden=True, used=1),
            Node("disk", "qcow2", parent="base", used=2),
            Node("dead", "qcow2", parent="base", hidden=True, used=4),
            Node("leaf", "qcow2", parent="dead", hidden=True, used=8),
            Node("below", "qcow2", hidden=True, used=16),
            Node("bad", "qcow2", parent="below", used=32, problem="rubbish"),
        ]
    )
    assert garbage_bytes(forest) == 12
    assert list(families([]))


def test_as_a_file_and_as_json(site: Site) -> None:
    sr = site.create_sr()
    target = site.folder / "sm.prom"
    target.write_text("old")
    assert site.sm("gc", "metrics", "--output", str(target)) == {"output": str(target)}
    text = target.read_text()
    assert Scraped(text).get("sm_sr_up", sr, name="store") == 1
    assert target.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in target.parent.glob("*new*")] == []
    rows = site.sm("gc", "metrics")
    (up,) = [row for row in rows if row["name"] == "sm_sr_up"]
    assert up["samples"] == [
        {"name": "sm_sr_up", "labels": {"sr": sr, "name": "store"}, "value": 1.0}
    ]
    assert Scraped(site.run("gc", "metrics")[1]).get("sm_sr_up", sr, name="store") == 1


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def _get(address: exporter.Address) -> str:
    if address.path is None:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=patient(30)) as answer:
            return str(answer.read().decode())
    connection = _UnixConnection(address.path)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A path for a socket that any client can take."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "m.sock"


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix"])
def test_served(site: Site, short_path: Path, kind: str) -> None:
    sr = site.create_sr()
    given = {"tcp": "0", "tcp6": "[::1]:0", "unix": f"unix:{short_path}"}[kind]
    settings = config.load(site.root)
    with exporter.serve(settings, exporter.Address.parse(given)) as address:
        assert Scraped(_get(address)).get("sm_sr_up", sr, name="store") == 1
        site.sm("sr", "detach", sr)
        assert Scraped(_get(address)).series("sm_sr_up") == 0
        if kind == "unix":
            with pytest.raises(InvalidArgument), exporter.serve(settings, address):
                pass
            assert short_path.exists()
    with pytest.raises(OSError):  # noqa: PT011 - refused, or no such file
        _get(address)
    assert not short_path.exists()


def test_a_socket_that_a_crash_left_is_no_hindrance(site: Site, short_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short_path))
    assert short_path.exists()
    address = exporter.Address.parse(f"unix:{short_path}")
    with exporter.serve(config.load(site.root), address):
        assert "sm_sr_up" in _get(address)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_listening_until_it_is_told_to_stop(site: Site, ending: signal.Signals) -> None:
    sr = site.create_sr()
    words = [sys.executable, "-m", "sm.cli.main", "--json", "gc", "metrics", "--listen", "0"]
    with subprocess.Popen(
        words, env=site.environment, stdout=subprocess.PIPE, text=True
    ) as listening:
        try:
            assert listening.stdout is not None
            document = ""
            while not document.rstrip().endswith("}"):
                document += (line := listening.stdout.readline())
                assert line, "it ended"
            where = json.loads(document)["address"]
            assert where.startswith("127.0.0.1:")
            text = _get(exporter.Address.parse(where))
            assert Scraped(text).get("sm_sr_up", sr, name="store") == 1
            listening.send_signal(ending)
            assert listening.wait(patient(30)) == 0
        finally:
            listening.kill()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("9100", "127.0.0.1:9100"),
        (":9100", "127.0.0.1:9100"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::1]:80", "[::1]:80"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_addresses(text: str, meant: str) -> None:
    assert str(exporter.Address.parse(text)) == meant


@pytest.mark.parametrize("text", ["", "host", "host:", "host:port", "host:70000", "unix:x", "9.5"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(InvalidArgument):
        exporter.Address.parse(text)


# Alerts and dashboard


def _exported(site: Site) -> dict[str, set[str]]:
    """Each name that is exported, with its labels, from an SR of which everything is known."""
    sr, disk, _ = _chain(site)
    ledger = Ledger(site.root / "gc.db")
    ledger.finished(_job(sr, 1))
    ledger.finished(_job(sr, 2, result=Result.FAILED, code="failed"))
    ledger.failed(sr, disk, "failed", "", time.time())
    waits = (Delayed(disk, "failed", "", time.time()),)
    worker.working(sr, worker.job((disk,), "b"), waiting=waits).write(worker.run_folder(site.root))
    found: dict[str, set[str]] = {}
    for name, labels in scrape(site).figures:
        found.setdefault(name, set()).update(label for label, _ in labels)
    return found


def _expressions() -> list[tuple[str, str]]:
    """Each expression of the alerts and the dashboard, with the text that shows its result."""
    alerts = yaml.safe_load((ETC / "prometheus" / "sm-alerts.yml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    found = [(rule["expr"], " ".join(rule["annotations"].values())) for rule in rules]
    dashboard = json.loads((ETC / "grafana" / "sm.json").read_text())
    targets: list[dict[str, Any]] = [
        target for panel in dashboard["panels"] for target in panel["targets"]
    ]
    found += [(target["expr"], target["legendFormat"]) for target in targets]
    queries = [each["query"] for each in dashboard["templating"]["list"]]
    return found + [(query, "") for query in queries if "sm_" in query]


def test_alerts_and_dashboard_name_only_what_is_exported(site: Site) -> None:
    exported = _exported(site)
    expressions = _expressions()
    assert len(expressions) > 25
    named: set[str] = set()
    for expression, shown in expressions:
        names = re.findall(r"\bsm_[a-z_]+\b", expression)
        assert names, expression
        assert set(names) <= set(exported), expression
        named |= set(names)
        labels = set().union(*(exported[name] for name in names))
        asked = re.findall(r"[{,]\s*([a-z]+)\s*=", expression)
        for listed in re.findall(r"(?:by|on) \(([^)]*)\)", expression):
            asked += [word.strip() for word in listed.split(",")]
        asked += re.findall(r"\{\{\s*\$labels\.([a-z]+)", shown)
        asked += re.findall(r"\{\{([a-z]+)\}\}", shown)
        assert set(asked) <= labels, expression
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing)
    assert named == set(exported), "what is exported and shown nowhere"


def test_the_documentation_names_every_figure_and_no_other(site: Site) -> None:
    text = (ETC.parent / "docs" / "cli.md").read_text()
    assert set(re.findall(r"`(sm_[a-z_]+)`", text)) == set(_exported(site))


def test_every_alert_is_whole() -> None:
    alerts = yaml.safe_load((ETC / "prometheus" / "sm-alerts.yml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert {"alert", "expr", "labels", "annotations"} <= set(rule)
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert re.fullmatch(r"\d+[mhd]", rule.get("for", "1m"))


def test_panels_do_not_overlap() -> None:
    dashboard = json.loads((ETC / "grafana" / "sm.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_a_scrape_writes_nothing_to_the_storage(site: Site) -> None:
    sr, disk, _ = _chain(site)
    image = site.chain(sr, disk)[0]
    before = {path: path.stat().st_mtime_ns for path in image.path.parent.rglob("*")}
    scrape(site)
    assert before == {path: path.stat().st_mtime_ns for path in image.path.parent.rglob("*")}


def test_the_service_gives_its_figures(site: Site, short_path: Path) -> None:
    """Where the settings name an address, for as long as it runs."""
    sr = site.create_sr()
    site.configure(gc_metrics_listen=f"unix:{short_path}")
    with collector(site):
        until(short_path.exists, "the socket")
        assert Scraped(_get(exporter.Address(short_path))).get("sm_sr_up", sr, name="store") == 1
    assert not short_path.exists()


def test_clients_that_say_nothing_do_not_keep_a_scrape_out(site: Site) -> None:
    """However many there are: their threads are few, and the scrape is answered."""
    site.create_sr()
    address = exporter.Address(None, "127.0.0.1", 0)
    with exporter.serve(config.load(site.root), address) as where:
        silent = [socket.create_connection((where.host, where.port)) for _ in range(100)]
        with urllib.request.urlopen(f"http://{where}/metrics") as answer:
            assert b"sm_sr_" in answer.read()
        names = [thread.name for thread in threading.enumerate()]
        assert sum("process_request_thread" in name for name in names) <= exporter.MAX_SCRAPES
        for each in silent:
            each.close()
