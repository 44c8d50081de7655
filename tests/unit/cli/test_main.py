"""How commands load, teach and end: exit codes, one line for a mistake, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from vfio_cli.help import Taught
from vfio_cli.main import TREE, cli, run

HOSTS = Path(__file__).resolve().parents[2] / "data" / "hosts"
IOMMU_OFF = str(HOSTS / "iommu-off.tar.gz")
MAP = {
    "check",
    "device list",
    "device show",
    "device history",
    "collect",
    "diff",
    "diagnose",
    "explain",
    "report",
    "up",
    "agent run",
    "agent hostd",
    "coordinator run",
    "status",
    "events",
    "forecast",
    "device bind",
    "device unbind",
    "device reset-test",
    "node list",
    "node show",
    "node cordon",
    "node uncordon",
    "node revalidate",
    "vm place",
    "vm claim",
    "vm release",
    "vm list",
    "vm explain",
    "vm lint",
    "baseline show",
    "baseline accept",
    "baseline history",
    "incident list",
    "incident show",
    "incident ack",
    "mute add",
    "mute list",
    "mute remove",
    "policy set",
    "policy show",
    "risk accept",
    "risk list",
    "risk revoke",
}
"""The map is closed: what is not here does not exist."""


def leaves(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by what is typed."""
    if not isinstance(command, click.Group):
        yield path.strip(), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from leaves(below, f"{path} {name}")


LEAVES = dict(leaves(cli))


def test_the_map_is_closed() -> None:
    assert set(LEAVES) == MAP


def start(*code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter."""
    return subprocess.run(
        [sys.executable, *code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
    )


HEAVY = ("grpc", "google.protobuf", "vfioctl", "tabulate", "yaml", "jinja2", "vfio_coordinator")


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--root", IOMMU_OFF],
        ["vm", "lint", "--root", IOMMU_OFF],
        ["--help"],
        ["check", "-h"],
        ["vm", "-h"],
        ["vm", "lint", "-h"],
    ],
)
def test_a_local_check_never_imports_the_wire(arguments: list[str]) -> None:
    script = (
        f"import sys; from vfio_cli.main import run; run({arguments!r}); "
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    result = start("-c", script)
    assert result.stderr == "[]\n", result.stdout


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    command = LEAVES[name]
    assert isinstance(command, Taught)
    assert command.help
    first = command.help.splitlines()[0]
    assert first.endswith((".", "?")), first
    assert "\nExamples:\n  " in text
    assert f"vfioctl {name}" in text
    assert "\nExit codes:\n" in text
    assert "64" in command.exits
    assert all(len(line) <= 80 for line in text.splitlines()), text


def test_the_map_by_section_fits_and_tells_each_purpose(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines())
    for section, rows in TREE.items():
        assert f"\n{section}:\n" in text
        for name, (_, purpose) in rows.items():
            assert f"  {name}" in text
            assert purpose in text
    assert "_VFIOCTL_COMPLETE=bash_source" in text


@pytest.mark.parametrize(
    "group", ["device", "node", "vm", "baseline", "policy", "risk", "agent", "coordinator"]
)
def test_the_purposes_in_a_group_are_whole(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([group, "--help"]) == 0
    assert "..." not in capsys.readouterr().out.replace("[ARGS]...", "")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["node"],
        ["nonsense"],
        ["check", "--nonsense"],
        ["check", "-o", "xml"],
        ["check", "--root", "/no/such/root"],
        ["check", "--root", "/", "--node", "pve01"],
        ["device", "show", "here"],
        ["device", "show", "ff:1f.7", "--root", IOMMU_OFF],
        ["diff", "/no/such/root", IOMMU_OFF],
        ["explain", "nonsense"],
        ["vm", "place", "UPPER", "--device", "gpu"],
        ["vm", "place", "train-9"],
        ["vm", "place", "train-9", "--device", "gpu", "--allow", "everything"],
        ["events", "--last", "0"],
        ["agent", "run"],
        ["agent", "run", "--tls", "/x", "--node", "Not A Name"],
        ["status", "--cluster", "--endpoint", "co1:7443"],
    ],
)
def test_wrong_usage_is_64_and_never_a_traceback(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("VFIOCTL_TLS", "VFIOCTL_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert run(arguments) == 64
    said = capsys.readouterr()
    assert said.err
    assert "Traceback" not in said.err


def test_a_near_miss_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "group-isolatoin"]) == 64
    assert "Did you mean group-isolation?" in capsys.readouterr().err


def test_no_coordinator_is_unknown_and_says_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = ["--endpoint", f"unix:{tmp_path}/api.sock"]
    assert run(["status", "--cluster", *endpoint]) == 3
    said = capsys.readouterr().err
    assert said.startswith("vfioctl: no coordinator here: ")
    assert "vfioctl up" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("iommu-off", 2, "NOT READY"),
        ("ir-off", 2, "NOT READY"),
        ("gpubox-f10", 1, "READY WITH WARNINGS"),
    ],
)
def test_check_answers_with_its_exit_code(
    name: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(HOSTS / f"{name}.tar.gz")
    assert run(["check", "--root", root]) == code
    text = capsys.readouterr().out
    assert says in text.splitlines()[0]
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.count("\n") < 100
    assert run(["check", "--root", root, "-o", "json"]) == code


def test_the_iommu_off_host_is_told_to_stop_digging(capsys: pytest.CaptureFixture[str]) -> None:
    run(["check", "--root", IOMMU_OFF])
    text = capsys.readouterr().out
    assert "FAIL  iommu-active  IOMMU_OFF" in text
    assert "BLOCKED by iommu-active: group-isolation, driver-binding" in text
    assert "Stop digging: leave VM arguments alone until iommu-active passes." in text


def test_the_json_of_a_check_has_exactly_the_agreed_shape(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(["check", "--root", IOMMU_OFF, "-o", "json"])
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["schema", "host", "verdict", "findings", "missing"]
    assert document["schema"] == "vfioctl.check/v1"
    assert document["verdict"] == "FAIL"
    keys = ["check", "subject", "verdict", "code", "evidence", "meaning", "decision"]
    for finding in document["findings"]:
        assert list(finding) == [*keys, "blocked_by", "intended"]
        assert finding["intended"] in (True, False, None)
        for item in finding["evidence"]:
            assert list(item) == ["source", "text"]
    for item in document["missing"]:
        assert list(item) == ["evidence", "command"]
    blocked = {f["check"]: f["blocked_by"] for f in document["findings"] if f["blocked_by"]}
    assert {"group-isolation", "driver-binding", "vm-functions"} <= set(blocked)
    assert set(blocked.values()) == {"iommu-active"}
    subjects = [(f["check"], f["subject"]) for f in document["findings"]]
    assert len(subjects) == len(set(subjects))


def test_yaml_says_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    run(["check", "--root", IOMMU_OFF, "-o", "json"])
    as_json = json.loads(capsys.readouterr().out)
    run(["check", "--root", IOMMU_OFF, "-o", "yaml"])
    assert yaml.safe_load(capsys.readouterr().out) == as_json


def test_this_machine_can_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "-o", "json"]) in (0, 1, 2, 3)
    assert json.loads(capsys.readouterr().out)["findings"]
    assert run(["status"]) in (0, 1, 2, 3)
    assert "All of the evidence: vfioctl check" in capsys.readouterr().out


def test_a_closed_pipe_is_quiet() -> None:
    script = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-m', 'vfio_cli.main', "
        f"'check', '--root', {IOMMU_OFF!r}], stdout=subprocess.PIPE, stderr=subprocess.PIPE); "
        "p.stdout.close(); said = p.stderr.read(); print(p.wait(), said)"
    )
    assert start("-c", script).stdout == "141 b''\n"


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "vfio_cli.main", "explain"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 2
    assert result.stderr == "vfioctl: the output cannot be written: No space left on device\n"


def test_completion_offers_commands_and_codes() -> None:
    words = {"_VFIOCTL_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    found = start("-m", "vfio_cli.main", COMP_WORDS="vfioctl explain group", **words)
    assert "plain,group-isolation" in found.stdout.splitlines()
    assert "plain,GROUP_WIDENED" in found.stdout.splitlines()


@pytest.mark.parametrize("verb", ["show", "bind", "reset-test"])
def test_completion_offers_the_functions_of_a_host(verb: str) -> None:
    line = f"vfioctl device {verb} --root {IOMMU_OFF} 0000:0"
    words = {"_VFIOCTL_COMPLETE": "bash_complete", "COMP_CWORD": "5"}
    found = start("-m", "vfio_cli.main", COMP_WORDS=line, **words)
    assert "plain,0000:00:00.0" in found.stdout.splitlines(), found


def test_watching_says_how_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["status"], ["events"], ["check"], []):
        assert run([*words, "--help"]) == 0
        assert "130 after Ctrl-C" in " ".join(capsys.readouterr().out.split())


def test_an_endpoint_is_of_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--endpoint", "pve07:7443"]) == 64
    assert "--cluster" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(["chek"], "check"), (["vm", "lnt"], "lint"), (["device", "lst"], "list")],
)
def test_a_mistyped_command_is_named(
    typed: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(typed) == 64
    assert f"No such command '{typed[-1]}'. Did you mean '{meant}'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["up", "--state", ""],
        ["up", "--agent-state", ""],
        ["up", "--node", ""],
        ["up", "--root", ""],
        ["coordinator", "run", "--state", ""],
        ["agent", "run", "--tls", "/x", "--state", ""],
        ["agent", "run", "--tls", ""],
    ],
)
def test_an_empty_value_is_no_wish_for_the_default(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 64
    assert f"{arguments[-2]} '': it is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["coordinator", "run", "--state", "s"], ["agent", "run", "--tls", "t", "--state", "s"]],
)
def test_a_program_that_may_not_be_run_is_named(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "python").write_bytes(b"no program")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert said == f"vfioctl: {tmp_path}/python cannot be run: Permission denied\n"
