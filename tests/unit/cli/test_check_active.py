"""`vfioctl check --active`: measured on this host, once, only when asked, and without a trace."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vfio_cli.main import run

Captured = pytest.CaptureFixture[str]


def contention(capsys: Captured) -> str:
    """All that the host-contention finding says."""
    document = json.loads(capsys.readouterr().out)
    (found,) = [f for f in document["findings"] if f["check"] == "host-contention"]
    return json.dumps(found)


def test_the_measurement_is_evidence_and_leaves_nothing(tmp_path: Path, capsys: Captured) -> None:
    run(["check", "--active", "--active-dir", str(tmp_path), "-o", "json"])
    assert f"fsync in {tmp_path}" in contention(capsys)
    assert os.listdir(tmp_path) == []


def test_nothing_is_measured_unasked_and_a_failure_is_told(
    tmp_path: Path, capsys: Captured
) -> None:
    run(["check", "-o", "json"])
    assert "fsync" not in contention(capsys)
    run(["check", "--active", "--active-dir", str(tmp_path / "no"), "-o", "json"])
    assert "No such file or directory" in contention(capsys)


def test_a_place_to_measure_without_measuring_is_refused(tmp_path: Path, capsys: Captured) -> None:
    assert run(["check", "--active-dir", str(tmp_path)]) == 64
    assert "add --active" in capsys.readouterr().err
    assert run(["check", "--active", "--active-dir", ""]) == 64
    assert "--active-dir '': it is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [["--root", "/tmp"], ["--node", "x"], ["--watch"], ["--from", "x"]]
)
def test_only_this_host_can_be_measured(more: list[str], capsys: Captured) -> None:
    assert run(["check", "--active", *more]) == 64
    assert "--active measures this host" in capsys.readouterr().err
