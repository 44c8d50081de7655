"""A read that blocks becomes an error; nothing else waits for it."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.captured import (
    make_tree,
    open_directory,
    open_live,
    open_tar,
)
from vfio_agent.collect.deadline import Deadline
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot
from vfio_agent.collect.tree_root import DirectoryRoot


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """A file whose open blocks until somebody writes; lets the stuck reader go at the end."""
    path = tmp_path / "sys" / "blocked"
    path.parent.mkdir()
    os.mkfifo(path)
    yield path
    release(path)


def release(path: Path) -> None:
    if path.is_fifo():
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "collect-read"]


def test_a_blocked_read_is_an_error_and_the_rest_goes_on(tmp_path: Path, fifo: Path) -> None:
    (tmp_path / "sys" / "free").write_text("1\n")
    root = LiveRoot(str(tmp_path), deadline_s=0.5)
    results = root.read_many(["/sys/free", "/sys/blocked", "/sys/free", "/sys/free"])
    assert [r for r in results if isinstance(r, bytes)] == [b"1\n"] * 3
    blocked = results[1]
    assert isinstance(blocked, TimeoutError)
    assert blocked.errno == errno.ETIMEDOUT
    assert blocked.strerror == "blocked for 0.5 s"


def test_a_stuck_path_is_not_read_twice_at_once(tmp_path: Path, fifo: Path) -> None:
    (tmp_path / "sys" / "free").write_text("1\n")
    root = LiveRoot(str(tmp_path), deadline_s=0.5)
    before = set(readers())
    with pytest.raises(TimeoutError, match="blocked for"):
        root.read("/sys/blocked")
    (stuck,) = set(readers()) - before
    assert root.read("/sys/free") == b"1\n"
    with pytest.raises(TimeoutError, match="still blocked"):
        root.read("/sys/blocked")
    assert root.read_many(["/sys/free", "/sys/blocked"])[0] == b"1\n"
    again = LiveRoot(str(tmp_path), deadline_s=0.5)
    with pytest.raises(TimeoutError, match="still blocked"):
        again.read("/sys/blocked")
    release(fifo)
    stuck.join(timeout=30)
    assert not stuck.is_alive()
    fifo.unlink()
    fifo.write_text("2\n")
    assert root.read("/sys/blocked") == b"2\n"


def test_a_blocked_read_is_a_gap_with_its_path(tmp_path: Path, fifo: Path) -> None:
    reader = Reader(LiveRoot(str(tmp_path), deadline_s=0.5))
    assert reader.text("/sys/blocked") is None
    assert [(g.path, g.errno, g.reason) for g in reader.gaps] == [
        ("/sys/blocked", errno.ETIMEDOUT, "blocked for 0.5 s")
    ]


def test_a_captured_fifo_does_not_block_at_all(tmp_path: Path, fifo: Path) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        DirectoryRoot(str(tmp_path)).read("/sys/blocked")


def test_an_idle_worker_ends_with_its_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    before = set(readers())
    root = LiveRoot(str(tmp_path))
    assert root.read("/file") == b"1"
    (worker,) = set(readers()) - before
    del root
    gc.collect()
    worker.join(timeout=30)
    assert not worker.is_alive()


def test_other_exceptions_reach_the_caller_and_leave_the_worker_usable() -> None:
    deadline = Deadline(10)

    def explode(path: str) -> str:
        if path == "/bad":
            raise KeyError(path)
        return path

    with pytest.raises(KeyError):
        deadline.run(explode, ["/good", "/bad", "/good"])
    assert deadline.run(explode, ["/good"]) == ["/good"]
    assert deadline.run(explode, []) == []
    deadline.close()
    assert deadline.run(explode, ["/good"]) == ["/good"]


def test_a_nul_in_a_path_is_an_error_like_any_other(tmp_path: Path) -> None:
    make_tree(tmp_path / "host")
    for opener in (open_live, open_directory, open_tar):
        root = opener(tmp_path / "host", tmp_path)
        (result,) = root.read_many(["/sys/\0"])
        assert isinstance(result, OSError)
