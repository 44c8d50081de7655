"""Tests of this folder may be `async def`: each runs on an event loop of its own.

Whatever a test leaves running on its loop fails it: a stream or a timer that nobody ends would be
a leak in a coordinator that runs for months.
"""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.agents import no_leftovers

TEST_S = 120.0
"""Ends a hung test with the place where it hangs; pytest's own limit would end the whole run."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(_run(pyfuncitem.obj, {name: pyfuncitem.funcargs[name] for name in names}))
    return True


async def _run(test: Any, arguments: dict[str, Any]) -> None:
    async with asyncio.timeout(TEST_S), no_leftovers():
        await test(**arguments)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory that is not there yet; short, because a socket's path is."""
    return tmp_path / "s"
