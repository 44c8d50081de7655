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
    assert "kernel log (113 lines," in said.replace("\n        ", " ")
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


@pytest.mark.parametrize("text", ["", "\n \n", "hello\n"])
@pytest.mark.parametrize(
    "command",
    [["check"], ["report"], ["device", "list"], ["diagnose", "--symptom", "wont-start"]],
    ids=" ".join,
)
def test_what_says_nothing_about_a_host_is_judged_by_nobody(
    command: list[str], text: str, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    assert run([*command, "--from", str(path)]) == 64
    said = capsys.readouterr()
    assert said.out == ""
    assert f"--from {path}: " in said.err


def test_one_useful_path_is_enough(paste: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "x").write_text("hello\n")
    assert run(["check", "--from", str(paste), str(tmp_path / "x")]) == 3
    assert "nothing known (not recognised" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", [["check", "--from", ""], ["diff", "", F10], ["diff", F10, ""]])
def test_an_empty_path_is_named_as_such(words: list[str], capsys: Captured) -> None:
    assert run(words) == 64
    assert " '': it is empty: give " in capsys.readouterr().err


def test_an_artifact_as_a_root_is_told_the_other_option(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "host.json"
    assert run(["collect", "--root", F10, "-o", str(path)]) == 0
    capsys.readouterr()
    assert run(["check", "--root", str(path)]) == 64
    assert f"vfioctl check --from {path}" in capsys.readouterr().err


def test_commands_are_for_the_host_that_the_evidence_is_of(log: Path, capsys: Captured) -> None:
    run(["check", "--from", str(log)])
    assert "Get what is missing on the host that this evidence is of" in capsys.readouterr().out
    run(["check"])
    assert "on the host that this evidence is of" not in capsys.readouterr().out


def test_device_commands_take_several_paths(paste: Path, log: Path, capsys: Captured) -> None:
    assert run(["device", "list", "-o", "name", "--from", str(paste), str(log)]) == 0
    assert "0000:01:00.0" in capsys.readouterr().out.split()
    run(["device", "show", "01:00.0", "--from", str(paste), str(log)])
    assert "vfio-pci" in capsys.readouterr().out
    assert run(["device", "show", "ff:1f.7", "--from", str(paste), str(log)]) == 64
    assert f"vfioctl device list --from {paste} {log}\n" in capsys.readouterr().err
    assert run(["device", "list", str(paste)]) == 64
    assert f"--from {paste}" in capsys.readouterr().err


def test_a_function_is_never_given_the_reasons_of_its_neighbour(capsys: Captured) -> None:
    run(["check", "--root", str(HOSTS / "m3-intel-6.12.tar.gz")])
    text = " ".join(capsys.readouterr().out.split())
    assert "0000:09:01.0 0000:09:02.0 Intel 82540EM" in text
    assert "(bound to vfio-pci [0000:09:02.0 only]," in text
    assert "0000:02:00.0 QEMU NVM Express Controller (bound to vfio-pci, driver_o" in text
