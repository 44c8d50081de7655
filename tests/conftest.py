"""What holds for every test run: markers, the shared folder, the browser, skips and seeds.

Tests that need the shared folder are deselected and counted where it is absent; so are those that
need a browser, but under CI they run, and fail, because CI can install one. Any other
skip is listed last with its reason, and fails the run under CI: a test that silently does
not run protects nobody. No test's own fixtures belong here.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.shared_folder import locate_shared

settings.register_profile("vfioctl", deadline=None, print_blob=True)
settings.load_profile("vfioctl")

_DESELECTED = pytest.StashKey[int]()
_WITHOUT_BROWSER = pytest.StashKey[int]()
_SKIPS = pytest.StashKey[list[tuple[str, str]]]()
_SEED = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_DESELECTED] = 0
    config.stash[_WITHOUT_BROWSER] = 0
    config.stash[_SKIPS] = []
    seed = os.environ.get("VFIOCTL_SEED")
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
    if _locate_chromium() is None and not os.environ.get("CI"):
        config.stash[_WITHOUT_BROWSER] = _deselect(config, items, "browser")


def _deselect(config: pytest.Config, items: list[pytest.Item], marker: str) -> int:
    """Take the tests with this marker out of the run; how many."""
    deselected = [item for item in items if item.get_closest_marker(marker)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if not item.get_closest_marker(marker)]
    return len(deselected)


def _locate_chromium() -> Path | None:
    """The browser of the tests: Debian's, or one of that name on PATH."""
    found = shutil.which("chromium")
    return Path(found) if found else None


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
    count = config.stash[_WITHOUT_BROWSER]
    if count:
        terminalreporter.write_sep("-", "browser absent")
        terminalreporter.write_line(
            f"{count} test{'s' if count > 1 else ''} marked `browser` deselected: no chromium; "
            "apt-get install -y --no-install-recommends chromium"
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
    program = _locate_chromium()
    if program is None:
        pytest.fail("no chromium: apt-get install -y --no-install-recommends chromium")
    return program


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed, printed in the header, for fake clocks and transports."""
    return request.config.stash[_SEED]
