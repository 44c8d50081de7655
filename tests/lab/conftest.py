"""What every scenario of the lab shares: kernels that are there, a way to boot, the table.

A scenario's module boots its own machines and asks them for facts; nothing here knows a scenario.
The table of what was predicted and what was observed is printed last.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.lab.harness.machine import Guest, run
from tests.lab.harness.prepare import Kernel, prepare
from tests.lab.harness.topology import Machine
from tests.lab.observation import Row, render

Boot = Callable[[Machine], AbstractContextManager[Guest]]

_ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def kernels() -> dict[str, Kernel]:
    """Every kernel that the lab boots, prepared once."""
    return prepare(("6.1", "6.12"))


@pytest.fixture(scope="session")
def boot(kernels: dict[str, Kernel]) -> Boot:
    """Boots a machine for the time of a `with`."""
    return lambda machine: run(machine, kernels[machine.kernel])


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> list[Row]:
    """Rows of predicted against observed; whoever compares adds to it."""
    return pytestconfig.stash.setdefault(_ROWS, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table, if anything was compared."""
    rows = config.stash.get(_ROWS, [])
    if rows:
        terminalreporter.write_sep("-", "predicted and observed")
        terminalreporter.write_line(render(rows))
