"""Fixtures that many tests share, and what surrounds every test."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support import namespaces
from tests.support.leftovers import end_new_processes, remove, remove_dead
from tests.support.patience import patient
from tests.support.session import Session, all_sessions
from tests.support.site import NewSite, Site
from tests.support.tiers import ROOT, SOAK, left_out

SECONDS = patient(150)
SOAK_SECONDS = 4 * 3600
"""When a test is ended that hangs; `timeout` in setup.cfg is for one that is run without this."""

WAITING = ("tests/gc/service", "tests/thin", "tests/datapath/tapdisk")

LOG_LINES = 100
"""Of each log of the product, with a failure."""

SESSION = pytest.StashKey[Session]()
FOUND = pytest.StashKey[list[str]]()
"""What earlier sessions left, and is removed."""

LEFT = pytest.StashKey[list[str]]()
"""What this session left, though every test has ended."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are CPUs: tests wait, too; with more they are in each other's way."""
    return 1 + (os.cpu_count() or 1)


def pytest_configure(config: pytest.Config) -> None:
    """Begin a session, before it is reported on and before there are workers."""
    # A fork of a test has a time limit of its own, or none; that of the test is the parent's.
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGALRM, signal.SIG_DFL))
    if config.option.collectonly:
        return
    if hasattr(config, "workerinput"):
        Session.join()
        return
    found = []
    while dead := [session for session in all_sessions() if session.dead]:
        for session in dead:
            found += [f"session {session.owner.pid}: {each}" for each in remove_dead(session)]
    config.stash[FOUND] = found


def _waits(item: pytest.Item) -> bool:
    """Whether it waits more than it works."""
    return any(item.path.is_relative_to(ROOT / folder) for folder in WAITING)


def pytest_collection_finish() -> None:
    """Spare the garbage collector the tests themselves: it would walk them again and again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this tier does not run; and end what hangs, whatever it is.

    A soak takes as long as it is told to. What waits comes first, so that in the end there is only
    what keeps the CPUs busy, and none of them goes idle.
    """
    others = left_out(items)
    if others:
        config.hook.pytest_deselected(items=[item for item in items if item in others])
        items[:] = [item for item in items if item not in others]
    items.sort(key=_waits, reverse=True)
    for item in items:
        if SOAK or item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SOAK_SECONDS if SOAK else SECONDS))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name what was left by sessions that were killed."""
    return [f"left by an earlier {each}; removed" for each in config.stash.get(FOUND, [])]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Whatever is started from now on bears the mark of this session."""
    config = session.config
    if FOUND in config.stash:
        folder = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        config.stash[SESSION] = Session.begin(folder)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """When all workers have ended, remove what is left; a session that leaves something fails."""
    result = yield
    own = session.config.stash.get(SESSION, None)
    if own is not None:
        session.config.stash[LEFT] = left = remove(own, os.getpid())
        own.end()
        if left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return result


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name what was left."""
    if left := config.stash.get(LEFT, []):
        terminalreporter.section("left by tests of this session, and removed: it fails", red=True)
        for each in left:
            terminalreporter.line(each)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Run a test that is marked for it in namespaces of its own."""
    if pyfuncitem.get_closest_marker(namespaces.MARK) is None:
        return (yield)
    test = pyfuncitem.obj
    pyfuncitem.obj = namespaces.apart(test)
    try:
        return (yield)
    finally:
        pyfuncitem.obj = test


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the product said in its log: the folders of a guest go with it."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and folder is not None:
        for log in sorted(folder.rglob("sm.log")):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            report.sections.append((str(log), "\n".join(lines[-LOG_LINES:])))
    return report


@pytest.fixture(autouse=True)
def _no_process_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """End every process that still works below the folder of a test: datapaths outlive commands."""
    folder = str(request.getfixturevalue("tmp_path")) if "tmp_path" in request.fixturenames else ""
    yield
    if folder:
        end_new_processes(folder)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty storage manager."""
    return Site(tmp_path)


@pytest.fixture
def new_site(tmp_path: Path) -> NewSite:
    """For tests that need several."""
    return lambda name: Site(tmp_path / name)


@pytest.fixture(params=["qcow2", "vhd"])
def cow_format(request: pytest.FixtureRequest) -> str:
    """Each copy-on-write format."""
    return str(request.param)
