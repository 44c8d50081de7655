"""The one measurement that writes: bounded, without a trace, and honest when it cannot be made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vfio_agent.fsync_probe import LIMIT_BYTES, measure_fsync, time_syncs
from vfio_contract.model import SyncTimes

BLOCK = 4096


def test_it_measures_and_leaves_nothing(tmp_path: Path) -> None:
    found = time_syncs(str(tmp_path))
    assert found.error == ""
    assert 1 <= found.count <= LIMIT_BYTES // BLOCK
    assert 0 <= found.median_ms <= found.worst_ms
    assert list(tmp_path.iterdir()) == []


def test_bytes_and_seconds_are_limits(tmp_path: Path) -> None:
    assert time_syncs(str(tmp_path), limit_bytes=3 * BLOCK).count == 3
    assert time_syncs(str(tmp_path), limit_seconds=0.0).count == 1


def test_a_file_system_without_nameless_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a directory that is opened for writing gives the EISDIR of such a file system
    monkeypatch.setattr(os, "O_TMPFILE", 0)
    assert time_syncs(str(tmp_path), limit_bytes=BLOCK).count == 1
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    assert measure_fsync(missing) == SyncTimes(missing, 0, 0.0, 0.0, os.strerror(2))
    assert measure_fsync("/proc").error.startswith("proc has no disk below it")
