"""What holds for every test run: markers, the shared folder, the browser, skips and seeds.

Tests that need the shared folder are deselected and counted where it is absent; so are those that
need a browser or strace, but under CI they run, and fail, because CI can install these. Any other
skip is listed last with its reason, and fails the run under CI: a test that silently does
not run protects nobody. No test's own fixtures belong here.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.shared_folder import locate_shared

settings.register_profile("vfioctl", deadline=None, print_blob=True)
settings.load_profile("vfioctl")

_DESELECTED = pytest.StashKey[int]()
_WITHOUT_TOOL = pytest.StashKey[dict[str, int]]()
_SKIPS = pytest.StashKey[list[tuple[str, str]]]()
_SEED = pytest.StashKey[int]()

_TOOLS = {"browser": "chromium", "strace": "strace"}
"""Marker -> the program its tests need, which is also the name of its package."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_DESELECTED] = 0
    config.stash[_WITHOUT_TOOL] = {}
    config.stash[_SKIPS] = []
    seed = os.environ.get("VFIOCTL_SEED")
    # a run in the background ignores these, and so would every process that a test ends with them
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            python = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if python else signal.SIG_DFL)
    config.stash[_SEED] = int(seed) if seed else random.SystemRandom().getrandbits(32)
    config.pluginmanager.register(_SkipLedger(config), "vfioctl-skips")


class _SkipLedger:
    """Keeps (test, reason) of every skip; an expected failure is not a skip."""

    def __init__(self, config: pytest.Config) -> None:
        self._skips = config.stash[_SKIPS]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._skips.append((report.nodeid, _reason_of(report)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._skips.append((report.nodeid, _reason_of(report)))


def _reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(report.longrepr)


def pytest_report_header(config: pytest.Config) -> list[str]:
    seed = config.stash[_SEED]
    return [
        f"seed: {seed} (VFIOCTL_SEED={seed} repeats it)",
        f"shared: {'present' if locate_shared() else 'absent'}",
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if locate_shared() is None:
        config.stash[_DESELECTED] = _deselect(config, items, "shared")
    for marker, program in _TOOLS.items():
        if shutil.which(program) is None and not os.environ.get("CI"):
            config.stash[_WITHOUT_TOOL][marker] = _deselect(config, items, marker)


def _deselect(config: pytest.Config, items: list[pytest.Item], marker: str) -> int:
    """Take the tests with this marker out of the run; how many."""
    deselected = [item for item in items if item.get_closest_marker(marker)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if not item.get_closest_marker(marker)]
    return len(deselected)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    # The outermost wrapper, so that what did not run is read last.
    yield
    count = config.stash[_DESELECTED]
    if count:
        terminalreporter.write_sep("-", "shared folder absent")
        terminalreporter.write_line(
            f"{count} test{'s' if count > 1 else ''} marked `shared` deselected: "
            "no ../shared beside the checkout and no $VFIOCTL_SHARED"
        )
    for marker, count in config.stash[_WITHOUT_TOOL].items():
        if not count:
            continue
        program = _TOOLS[marker]
        terminalreporter.write_sep("-", f"{program} absent")
        terminalreporter.write_line(
            f"{count} test{'s' if count > 1 else ''} marked `{marker}` deselected: no {program}; "
            f"apt-get install -y --no-install-recommends {program}"
        )
    if config.stash[_SKIPS]:
        consequence = "; under CI each fails the run" if os.environ.get("CI") else ""
        terminalreporter.write_sep("-", f"skipped{consequence}")
        for nodeid, reason in config.stash[_SKIPS]:
            terminalreporter.write_line(f"{nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    succeeded = session.exitstatus == pytest.ExitCode.OK
    if succeeded and os.environ.get("CI") and session.config.stash[_SKIPS]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real captures; only for tests marked `shared`."""
    folder = locate_shared()
    if folder is None:
        pytest.fail("this test needs the shared folder and lacks the marker `shared`")
    return folder


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The browser's program; only for tests marked `browser`."""
    found = shutil.which(_TOOLS["browser"])
    if found is None:
        pytest.fail("no chromium: apt-get install -y --no-install-recommends chromium")
    return Path(found)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed, printed in the header, for fake clocks and transports."""
    return request.config.stash[_SEED]
