"""What a look leaves behind: nothing. An agent looks for months, and each host misses files."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import LiveRoot, Root, open_root

LIMIT_S = 10.0
"""For the worker of a root to let go of its last read."""


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Nothing is freed but what nobody has any more."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("opened", [LiveRoot, open_root])
def test_a_root_goes_with_its_last_user(tmp_path: Path, opened: Callable[[str], Root]) -> None:
    """An error keeps what was under way when it was raised; none may be kept in there."""
    tree = SysfsTree(tmp_path / "host")
    tree.host(boot_id="b-1")
    tree.function("0000:01:00.0", group=1)
    root = opened(str(tree.top))
    snapshot = collect_host(root)
    gone = weakref.ref(root)
    del root

    end = time.monotonic() + LIMIT_S
    while gone() is not None and time.monotonic() < end:
        time.sleep(0.001)
    assert gone() is None
    assert snapshot.readings.boot_id == "b-1"
