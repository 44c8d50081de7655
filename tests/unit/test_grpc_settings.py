"""What we set in gRPC by name exists in the release that is installed: it ignores what it does not
know, and a misspelt limit is none."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import _common

from tests.fakes import recording_coordinator
from vfio_agent import network
from vfio_agent.session import link
from vfio_cli import channel
from vfio_coordinator.api import server


@pytest.fixture(scope="module")
def library() -> bytes:
    return Path(str(importlib.import_module("grpc._cython.cygrpc").__file__)).read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(link.CHANNEL_OPTIONS, id="agent"),
        pytest.param(server.OPTIONS, id="coordinator"),
        pytest.param(channel.OPTIONS, id="command line"),
        pytest.param(recording_coordinator._OPTIONS, id="the tests' coordinator"),
    ],
)
def test_each_option_is_one_of_grpcs(options: tuple[tuple[str, Any], ...], library: bytes) -> None:
    # a setting of the Python layer is not in the library
    names = [name for name, _ in options if not name.startswith("grpc.experimental.")]
    assert names
    assert [name for name in names if name.encode() + b"\0" not in library] == []


@pytest.fixture
def quiet() -> Iterator[None]:
    before = _common.MAXIMUM_WAIT_TIMEOUT
    network.wait_quietly()
    yield
    _common.MAXIMUM_WAIT_TIMEOUT = before


@pytest.mark.usefixtures("quiet")
def test_a_thread_of_grpcs_is_not_woken_for_nothing() -> None:
    waited: list[float] = []

    def wait(timeout: float) -> bool:
        waited.append(timeout)
        return True

    _common.wait(wait, lambda: bool(waited))
    assert waited == [network.WAIT_S]
