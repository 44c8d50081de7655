"""How a command ends early: one rule for exit codes, a line for people, a document for scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vfio_cli.exits import Stop
from vfio_cli.main import run
from vfio_cli.output import find_form, tell_stop

HOSTS = Path(__file__).resolve().parents[2] / "data" / "hosts"
IOMMU_OFF = str(HOSTS / "iommu-off.tar.gz")


def test_up_refuses_a_port_that_cannot_be_before_it_starts_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for listen in ("999999", "127.0.0.1:999999", "127.0.0.1", "a:b:c", "127.0.0.1:-1", ""):
        state = tmp_path / "state"
        assert run(["up", "--state", str(state), "--listen", listen]) == 64
        assert f"--listen {listen!r} is not HOST:PORT" in capsys.readouterr().err
        assert not state.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (["check", "--root", "/no/such/root", "-o", "json"], "USAGE", 64),
        (["check", "--nonsense", "-ojson"], "USAGE", 64),
        (["check", "-o", "table", "--output=json", "--root", "/no/such/root"], "USAGE", 64),
        (["device", "show", "ff:1f.7", "--root", IOMMU_OFF, "-o", "json"], "USAGE", 64),
        (["explain", "nonsense", "-o", "json"], "USAGE", 64),
        (["status", "--cluster", "--endpoint", "unix:/no/api.sock", "-o", "json"], "NO_ANSWER", 3),
    ],
)
def test_a_command_that_ends_early_still_prints_the_document_that_was_asked_for(
    arguments: list[str], code: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == status
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert list(document) == ["schema", "code", "message", "exit_code"]
    assert document["schema"] == "vfioctl.error/v1"
    assert (document["code"], document["exit_code"]) == (code, status)
    assert document["message"] in said.err


def test_an_early_end_in_yaml_and_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    assert run(["explain", "nonsense", "-o", "yaml"]) == 64
    assert yaml.safe_load(capsys.readouterr().out)["schema"] == "vfioctl.error/v1"
    for words in (["explain", "nonsense"], ["explain", "nonsense", "-o", "wide"]):
        assert run(words) == 64
        assert capsys.readouterr().out == ""


def test_the_form_is_found_in_what_was_typed() -> None:
    assert find_form(["check"]) == ""
    assert find_form(["check", "-o"]) == ""
    assert find_form(["check", "-o", "yaml", "-ojson"]) == "json"
    assert find_form(["check", "--output", "json"]) == "json"
    assert find_form(["vm", "lint", "--", "-ojson"]) == ""


def test_a_folder_that_is_no_host_is_named_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for words in (["check"], ["device", "list"], ["collect"], ["vm", "lint"]):
        assert run([*words, "--root", str(tmp_path)]) == 64
        said = capsys.readouterr()
        assert said.out == ""
        assert f"--root {tmp_path}: it holds none of a host's files" in said.err
    assert run(["check", "--root", str(tmp_path), "-o", "json"]) == 64
    assert json.loads(capsys.readouterr().out)["code"] == "NO_HOST"
    (tmp_path / "dmesg").write_text("")
    assert run(["check", "--root", str(tmp_path)]) == 3


def test_a_fault_of_our_own_is_no_warning() -> None:
    script = (
        "import vfio_cli.look, vfio_cli.main\n"
        "def fail(root): raise RuntimeError('a fault')\n"
        "vfio_cli.look.look = fail\n"
        "import sys; sys.argv = ['vfioctl', 'check']; vfio_cli.main.main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 70
    assert "RuntimeError: a fault" in result.stderr


def test_a_watch_in_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    tell_stop("json")(Stop("cannot be reached", status=3))
    assert json.loads(capsys.readouterr().out) == {
        "schema": "vfioctl.error/v1",
        "code": "NO_ANSWER",
        "message": "cannot be reached",
        "exit_code": 3,
    }
