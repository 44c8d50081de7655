"""`vfioctl report`: where the page goes, and what it says when it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.unit.report.pages import HOSTS
from vfio_cli.main import run

ROOT = str(HOSTS / "gpubox-f11.tar.gz")


def test_a_file_is_written_whole_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "host.html"
    assert run(["report", "--root", ROOT, "-o", str(target)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"wrote {target}: gpubox-f11 FAIL\n"
    page = target.read_text(encoding="ascii")
    assert page.startswith("<!DOCTYPE html>\n")
    assert page.endswith("</html>\n")
    assert target.stat().st_mode & 0o777 == 0o600


def test_stdout_holds_the_same_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "host.html"
    run(["report", "--root", ROOT, "-o", str(target)])
    capsys.readouterr()
    assert run(["report", "--root", ROOT, "-o", "-"]) == 0
    assert capsys.readouterr().out == target.read_text(encoding="ascii")
    assert run(["report", "--root", ROOT]) == 0
    assert capsys.readouterr().out == target.read_text(encoding="ascii")


def test_pasted_evidence_is_named_with_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paste = tmp_path / "lspci.txt"
    paste.write_text(
        "00:00.0 Host bridge [0600]: Intel Corporation Device [8086:29c0]\n"
        "01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GA102GL [10de:2231]\n"
    )
    assert run(["report", "--from", str(paste)]) == 0
    page = capsys.readouterr().out
    assert "lspci.txt" in page
    assert "What was given" in page
    assert "What is missing to decide the rest" in page
    assert "the evidence does not say when" in page


def test_this_machine_can_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report"]) == 0
    assert "the evidence does not say when" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["/etc/hostname"],
        ["--root", ROOT, "--from", ROOT],
        ["--root", "/no/such/root"],
        ["--from", "/no/such/file"],
    ],
)
def test_wrong_usage_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", *arguments]) == 64
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err


def test_a_terminal_is_not_flooded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(["report", "--root", ROOT]) == 64
    assert "vfioctl report -o host.html" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "absent" / "host.html"
    assert run(["report", "--root", ROOT, "-o", str(target)]) == 2
    assert f"{target} cannot be written" in capsys.readouterr().err
