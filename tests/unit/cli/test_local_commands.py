"""`collect`, `diff`, `device` and `explain` on captured hosts, as a person would run them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vfio_agent.checks import list_codes
from vfio_cli.commands.device import device_view
from vfio_cli.look import look
from vfio_cli.main import run
from vfio_cli.screens.devices import show_screen
from vfio_cli.screens.layout import plain
from vfio_contract.artifact import decode_artifact, digest_facts

HOSTS = Path(__file__).resolve().parents[2] / "data" / "hosts"
F10, F11 = str(HOSTS / "gpubox-f10.tar.gz"), str(HOSTS / "gpubox-f11.tar.gz")
M3 = str(HOSTS / "m3-intel-6.1.tar.gz")

Captured = pytest.CaptureFixture[str]


def test_an_artifact_can_be_read_back(tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "host.json"
    assert run(["collect", "--root", F10, "-o", str(target)]) == 0
    snapshot = decode_artifact(target.read_bytes())
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(digest_facts(snapshot.facts))
    assert target.stat().st_mode & 0o077 == 0
    assert sorted(os.listdir(tmp_path)) == ["host.json", "host.md"]


def test_collect_twice_gives_the_same_digest(capsys: Captured) -> None:
    digests = set()
    for _ in range(2):
        assert run(["collect", "--root", F10]) == 0
        digests.add(json.loads(capsys.readouterr().out)["digest"])
    assert len(digests) == 1


def test_collect_into_nowhere_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    assert run(["collect", "--root", F10, "-o", str(tmp_path / "no" / "x.json")]) == 2
    said = capsys.readouterr().err
    assert "cannot be written" in said
    assert said.count("\n") == 1


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "dir"
    target.mkdir()
    assert run(["collect", "--root", F10, "-o", str(target)]) == 2
    assert os.listdir(tmp_path) == ["dir"]


def test_diff_names_what_moved_and_what_widened(capsys: Captured) -> None:
    assert run(["diff", F10, F11]) == 2
    text = capsys.readouterr().out
    assert "HARMFUL   2 firmware  4 moved  2 widened" in text
    assert "FAIL  GROUP_WIDENED  2 devices (merged)" in text
    assert "BIOS          F10 01/02/2025 -> F11 06/07/2025" in text
    assert "0000:01:00.0 -> 0000:04:00.0" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_diff_takes_files_and_roots_alike(tmp_path: Path, capsys: Captured) -> None:
    target = str(tmp_path / "f10.json")
    run(["collect", "--root", F10, "-o", target])
    assert run(["diff", target, F10]) == 0
    assert "SAME" in capsys.readouterr().out
    assert run(["diff", target, F11, "-o", "json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "vfioctl.diff/v1"
    codes = [change["code"] for change in document["changes"]]
    assert codes.count("GROUP_WIDENED") == 2
    assert codes.count("DEVICE_MOVED") == 4


@pytest.mark.parametrize("damage", [b"{}", b"{", b'{"schema": "vfioctl.artifact/v9"}'])
def test_diff_refuses_what_is_no_artifact(damage: bytes, tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "x.json"
    target.write_bytes(damage)
    assert run(["diff", str(target), F10]) == 64
    assert "BEFORE" in capsys.readouterr().err


def test_diff_refuses_an_artifact_that_was_edited(tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "x.json"
    run(["collect", "--root", F10, "-o", str(target)])
    target.write_text(target.read_text().replace("F10", "F12"))
    assert run(["diff", F10, str(target)]) == 64
    assert "digest does not match" in capsys.readouterr().err


def test_what_could_not_be_listed_is_not_called_equal(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "dmesg").write_text("[    0.0] Linux version 6.1.0\n")
    assert run(["diff", str(tmp_path), str(tmp_path)]) == 3
    text = capsys.readouterr().out
    assert "SAME" not in text
    assert "NOT COMPARED  devices and groups" in text


def test_device_list_shows_each_function_once(capsys: Captured) -> None:
    assert run(["device", "list", "--root", M3]) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines())
    assert run(["device", "list", "--root", M3, "-o", "name"]) == 0
    names = capsys.readouterr().out.split()
    assert len(names) == len(set(names))
    rows = [line for line in text.splitlines() if line[:4].isalnum() and ":" in line[:13]]
    assert [row.split()[0] for row in rows] == names
    assert run(["device", "list", "--root", M3, "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [d["address"] for d in document["devices"] if not d["bridge"]] == names


def test_device_list_without_inventory_is_unknown(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "dmesg").write_text("")
    assert run(["device", "list", "--root", str(tmp_path)]) == 3
    assert "could not be listed" in capsys.readouterr().out


def test_device_show_takes_a_short_address(capsys: Captured) -> None:
    assert run(["device", "show", "01:00.0", "--root", F10]) == 1  # no ledger comes with a root
    text = capsys.readouterr().out
    assert text.startswith("0000:01:00.0  READY WITH WARNINGS  Intel 82574L")
    assert "PASS  group-isolation  GROUP_CLEAN" in text
    assert "by device serial number" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_every_function_of_a_host_can_be_shown() -> None:
    seen = look(M3)
    for function in seen.host.functions:
        for wide in (False, True):
            text = plain(show_screen(device_view(seen, function.address), wide=wide))
            assert text.startswith(function.address)
            assert wide or all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize("form", ["wide", "json", "yaml"])
def test_a_function_is_shown_in_every_form(form: str, capsys: Captured) -> None:
    assert run(["device", "show", "0000:00:1f.2", "--root", M3, "-o", form]) == 2
    assert "0000:00:1f.2" in capsys.readouterr().out


def test_a_device_is_not_healthy_while_its_host_blocks_its_checks(capsys: Captured) -> None:
    run(["device", "list", "--root", str(HOSTS / "iommu-off.tar.gz"), "-o", "json"])
    devices = json.loads(capsys.readouterr().out)["devices"]
    assert {d["verdict"] for d in devices if d["unit"]} <= {"FAIL", "BLOCKED", "UNKNOWN"}


@pytest.mark.parametrize("code", [code.name for code in list_codes()])
def test_every_code_can_be_explained(code: str, capsys: Captured) -> None:
    assert run(["explain", code.lower()]) == 0
    text = capsys.readouterr().out
    assert text.startswith(code)
    assert "  decision  " in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_all_that_can_be_explained_is_listed(capsys: Captured) -> None:
    assert run(["explain"]) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines())
    assert run(["explain", "-o", "name"]) == 0
    for name in capsys.readouterr().out.split():
        assert name == "BLOCKED" or name in text


def test_a_hostile_host_cannot_write_on_the_terminal(tmp_path: Path, capsys: Captured) -> None:
    proc = tmp_path / "proc" / "sys" / "kernel"
    proc.mkdir(parents=True)
    (proc / "hostname").write_text("evil\x1b[2J\x1b]0;owned\x07\n")
    (tmp_path / "proc" / "cmdline").write_text("quiet \x1b[31mintel_iommu=off\x9b2J\n")
    (tmp_path / "dmesg").write_text("[    0.0] Linux version 6.1.0\x1b[2J\u202e\n")
    for arguments in (
        ["check", "--root", str(tmp_path)],
        ["check", "--root", str(tmp_path), "-o", "wide"],
        ["check", "--root", str(tmp_path), "-o", "json"],
        ["check", "--root", str(tmp_path), "-o", "yaml"],
        ["collect", "--root", str(tmp_path)],
    ):
        run(arguments)
        text = capsys.readouterr().out
        assert text.isascii()
        assert not set(text) - set(map(chr, range(32, 127))) - {"\n"}


@pytest.mark.parametrize("form", ["json", "yaml", "table", "wide", "name"])
def test_a_form_is_no_file_name(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["collect"], ["collect", "--script"], ["report"]):
        assert run([*words, "-o", form]) == 64
        assert f"-o ./{form} writes a file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run(["collect", "--root", F10, "-o", f"./{form}"]) == 0
    assert (tmp_path / form).is_file()
