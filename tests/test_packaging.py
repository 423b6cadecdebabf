"""What is built and installed holds the code, and a plugin starts without what it does not need."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from sm.drivers.registry import DRIVERS

ROOT = Path(__file__).resolve().parent.parent

MEMBERS = (
    "sm/plugin.py",
    "sm/py.typed",
    "sm/etc/error_codes.json",
    "sm/etc/finding_codes.json",
    "sm/doctor/findings.py",
    "sm/etc/grafana/sm.json",
    "sm/etc/prometheus/sm-alerts.yml",
    "sm/etc/systemd/sm-gc.service",
    "sm/etc/systemd/sm-hostd.service",
    "sm/etc/xapi.d/plugins/sm",
    "sm/etc/xapi.d/plugins/tapdisk-pause",
    "sm/cowutil/base.py",
    "sm/cowutil/vhd/util.py",
    "sm/cowutil/qcow2/util.py",
    "sm/drivers/file.py",
    "sm/gc/plan/planner.py",
)

LIST_MODULES = """
import sys
sys.argv = ["FileSR", sys.argv[1]]
from sm.drivers.file import main
main()
print("\\n".join(sorted(sys.modules)), file=sys.stderr)
"""

DRIVER_INFO = (
    "<methodCall><methodName>sr_get_driver_info</methodName><params><param><value><struct/>"
    "</value></param></params></methodCall>"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, made from a copy of the tree."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        origin = ROOT / name
        if origin.is_symlink():
            target.symlink_to(origin.readlink())
        elif origin.exists():
            target.write_bytes(origin.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)],
        capture_output=True,
        check=True,
    )
    return folder


@pytest.mark.world
def test_wheel_holds_the_code(built: Path) -> None:
    names = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    assert set(MEMBERS) <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sm"}


@pytest.mark.world
def test_source_distribution_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path)
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    subprocess.run(
        [
            *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", str(tmp_path), str(unpacked)),
        ],
        capture_output=True,
        check=True,
    )
    again = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    first = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    assert sorted(again) == sorted(first)


@pytest.mark.world
def test_installed_wheel_answers(built: Path, tmp_path: Path) -> None:
    wheel = next(built.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    answered = subprocess.run(
        [sys.executable, "-P", "-c", LIST_MODULES, DRIVER_INFO],
        env={"PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "<name>capabilities</name>" in answered.stdout


@pytest.mark.parametrize("sr_type", DRIVERS)
def test_driver_information_loads_nothing_heavy(sr_type: str) -> None:
    module = DRIVERS[sr_type].partition(":")[0]
    answered = subprocess.run(
        [sys.executable, "-c", LIST_MODULES.replace("sm.drivers.file", module), DRIVER_INFO],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(answered.stderr.split())
    assert module in loaded
    heavy = {
        "numpy",
        "rich",
        "XenAPI",
        "prometheus_client",
        "pydantic",
        "filelock",
        "sqlite3",
        "asyncio",
        "sm.cli",
    }
    assert not loaded & heavy
    assert not {name for name in loaded if name.startswith(("sm.cli", "sm.gc"))}


def test_the_command_line_loads_nothing_heavy_before_it_is_used() -> None:
    program = "import sys, sm.cli.main; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "sm.cli.gc_metrics" in loaded
    assert not set(loaded) & {"numpy", "rich", "XenAPI", "prometheus_client"}
