"""What every scenario of the lab shares: kernels that are there, a way to boot, the table.

A scenario's module boots its own machines and asks them for facts; nothing here knows a scenario.
The table of what was predicted and what was observed is printed last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

from tests.lab.harness.ground import LabMissing
from tests.lab.harness.machine import Guest, run
from tests.lab.harness.prepare import Kernel, prepare
from tests.lab.harness.topology import Machine
from tests.lab.observation import ROWS_FILE, Row, render

Boot = Callable[[Machine], AbstractContextManager[Guest]]

_ROWS = pytest.StashKey[list[Row]]()


def find_kernel(series: str) -> Kernel:
    """The kernel of this series, made if need be. A computer without QEMU skips, CI fails."""
    found = prepare_once(series)
    if isinstance(found, Kernel):
        return found
    if os.environ.get("CI"):
        raise found
    pytest.skip(str(found))


@cache
def prepare_once(series: str) -> Kernel | LabMissing:
    """The kernel, or what is missing: that does not change while tests run, and takes a while."""
    try:
        return prepare([series], install=False)[series]
    except LabMissing as error:
        return error


@pytest.fixture(scope="session")
def boot() -> Boot:
    """Boots a machine for the time of a `with`."""
    return lambda machine: run(machine, find_kernel(machine.kernel))


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> list[Row]:
    """Rows of predicted against observed; whoever compares adds to it."""
    return pytestconfig.stash.setdefault(_ROWS, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table, if anything was compared; one lane of several leaves its rows instead."""
    rows = config.stash.get(_ROWS, [])
    if path := os.environ.get(ROWS_FILE):
        Path(path).write_text(json.dumps([asdict(row) for row in rows]))
    elif rows:
        terminalreporter.write_sep("-", "predicted and observed")
        terminalreporter.write_line(render(rows))
