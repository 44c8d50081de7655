"""`vfioctl check --from`: account of the evidence, JSON, wrong usage, and other commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.pasted.pastes import CMDLINE, DMESG, LOOP, LSPCI_VV, UNAME
from vfio_cli.main import run

HOSTS = Path(__file__).resolve().parents[2] / "data" / "hosts"
F10, F11 = str(HOSTS / "gpubox-f10.tar.gz"), str(HOSTS / "gpubox-f11.tar.gz")

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def paste(tmp_path: Path) -> Path:
    path = tmp_path / "one"
    path.write_text(LSPCI_VV + UNAME + CMDLINE)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "two"
    path.write_text(DMESG)
    return path


def test_the_screen_says_what_was_given_and_what_to_run_next(
    paste: Path, log: Path, capsys: Captured
) -> None:
    assert run(["check", "--from", str(paste), str(log)]) == 3
    said = capsys.readouterr().out
    assert "given: 2 PATHs" in said
    assert "kernel log (7 lines," in said.replace("\n        ", " ")
    assert "lspci, /proc/cmdline, uname -a" in said.replace("\n        ", " ")
    assert "ls -l /dev/kvm" in said
    assert "0000:01:00.0+.1" in said
    assert max(map(len, said.splitlines())) <= 80


def test_json_has_the_same_schema_and_the_account(paste: Path, log: Path, capsys: Captured) -> None:
    args = ["check", "-o", "json", "--from", str(paste), "--from", str(log)]
    assert run(args) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "vfioctl.check/v1"
    assert [row["kinds"] for row in found["given"]] == [
        ["lspci", "/proc/cmdline", "uname -a"],
        ["kernel log"],
    ]
    verdicts = {(f["check"], f["subject"]): f["verdict"] for f in found["findings"]}
    assert verdicts["iommu-active", "node"] == "PASS"
    assert verdicts["group-isolation", "group:1"] == "PASS"


def test_a_capture_is_judged_as_by_root(capsys: Captured) -> None:
    codes = []
    for option in ("--root", "--from"):
        status = run(["check", option, F10, "-o", "json"])
        found = json.loads(capsys.readouterr().out)
        codes.append((status, [(f["check"], f["subject"], f["code"]) for f in found["findings"]]))
    assert codes[0] == codes[1]


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "x\x1b[2J"
    path.write_text(LOOP.replace("GP104", "GP\x1b[2J\x07104"))
    run(["check", "-o", "wide", "--from", str(path)])
    assert not set(capsys.readouterr().out) & {"\x1b", "\x07"}


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["check", "x"], "check --from x"),
        (["check", "--from", "/no/such"], "/no/such"),
        (["check", "--from", F10, "--root", F10], "give one"),
        (["check", "--from", F10, "--watch"], "does not change"),
        (["check", "--from", F10, F11], "vfioctl diff"),
        (["device", "list", "--from", F10, "--root", F10], "give one"),
    ],
)
def test_wrong_usage(args: list[str], word: str, capsys: Captured) -> None:
    assert run(args) == 64
    assert word in capsys.readouterr().err


def test_device_commands_and_diff_take_pastes(
    paste: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert run(["device", "list", "-o", "name", "--from", str(paste)]) == 0
    assert "0000:01:00.0" in capsys.readouterr().out.split()
    run(["device", "show", "01:00.0", "--from", str(paste)])
    assert "vfio-pci" in capsys.readouterr().out
    other = tmp_path / "other"
    other.write_text(paste.read_text().replace("IOMMU group: 2", "IOMMU group: 1"))
    assert run(["diff", str(paste), str(other)]) == 2
    assert "GROUP_WIDENED" in capsys.readouterr().out
