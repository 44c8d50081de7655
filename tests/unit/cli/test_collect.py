"""`collect` as a person runs it: the file, its human side, redaction and the script."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.snapshots import make_host, nic
from vfio_agent.script import load_script
from vfio_cli.look import look
from vfio_cli.main import run
from vfio_cli.markdown import MARK, render_page
from vfio_contract.artifact import decode_artifact
from vfio_contract.host import Host
from vfio_contract.model import BootOptions, Gap

DATA = Path(__file__).resolve().parents[2] / "data"
HOSTS = DATA / "hosts"
F10 = str(HOSTS / "gpubox-f10.tar.gz")
SCRIPT = Path(__file__).resolve().parents[3] / "agent/vfio_agent/script/gather.sh"

Captured = pytest.CaptureFixture[str]


def golden(name: str, text: str) -> None:
    """Compare with a file of tests/data/golden; VFIOCTL_GOLDEN=write writes it."""
    text = re.sub("sha256:[0-9a-f]{64}", "sha256:DIGEST", text)  # new fields change it
    path = DATA / "golden" / name
    if os.environ.get("VFIOCTL_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


# --- the human side ------------------------------------------------------------------------------


def page_host() -> Host:
    """A small host with something in each part of the page."""
    host = make_host(
        nic("0000:01:00.0", driver="vfio-pci"),
        nic("0000:02:00.0", driver="igb"),
        host="pve07",
    )
    facts = replace(
        host.facts,
        cmdline="root=/dev/sda1 quiet",
        boot_options=(
            BootOptions("grub", "/etc/default/grub:6", "quiet intel_iommu=on"),
            BootOptions("grub.cfg", "/boot/grub/grub.cfg:40", "root=/dev/sda1 quiet"),
        ),
    )
    gaps = (Gap("/proc/kmsg", 1, "Operation not permitted", "sudo dmesg"),)
    readings = replace(
        host.readings,
        boot_id="b-1",
        uptime_seconds=93784.0,
        collector="vfioctl 0.1.0",
        gaps=gaps,
        names=(("8086:10c9", "Intel Corporation 82576 Gigabit Network Connection"),),
    )
    return Host(replace(host.snapshot, facts=facts, readings=readings))


def test_the_page_shows_the_three_artifacts() -> None:
    golden("evidence.md", render_page(page_host(), artifact="pve07.json"))


def test_the_page_says_what_is_not_known() -> None:
    host = page_host()
    facts = replace(host.facts, cmdline=None, boot_options=None, groups=None, functions=None)
    readings = replace(host.readings, boot_id=None, uptime_seconds=None, gaps=())
    bare = Host(replace(host.snapshot, facts=facts, readings=readings))
    golden("evidence-unknown.md", render_page(bare, artifact="pve07.json"))


def test_evidence_is_never_markup() -> None:
    host = page_host()
    hostile = "quiet\n```\n# Owned <script>alert(1)</script> [x](http://evil)\n````\x1b[2J\u202e"
    facts = replace(host.facts, host=hostile, cmdline=hostile)
    gaps = (Gap(hostile, 0, hostile, hostile),)
    readings = replace(host.readings, gaps=gaps, boot_id=hostile)
    page = render_page(
        Host(replace(host.snapshot, facts=facts, readings=readings)), artifact=hostile
    )
    assert page.isascii()
    assert "\x1b" not in page
    outside = []
    fence = ""
    for line in page.splitlines():
        if not fence and (match := re.match("(`{3,})text$", line)):
            fence = match[1]
        elif fence and line == fence:
            fence = ""
        elif not fence:
            outside.append(line)
    assert fence == ""
    assert [line for line in outside if "Owned" in line or "evil" in line] == []


def test_collect_writes_both_sides(tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "host.json"
    assert run(["collect", "--root", F10, "-o", str(target)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith(f"wrote {target}, and for people {tmp_path / 'host.md'}\n")
    page = (tmp_path / "host.md").read_text()
    assert page.startswith(MARK)
    assert json.loads(target.read_text())["digest"] in page
    assert "artifact   host.json" in page
    assert (tmp_path / "host.md").stat().st_mode & 0o077 == 0


def test_the_same_host_twice_gives_the_same_page(tmp_path: Path) -> None:
    target = tmp_path / "host.json"
    pages = set()
    for _ in range(2):
        assert run(["collect", "--root", F10, "-o", str(target)]) == 0
        pages.add((tmp_path / "host.md").read_bytes())
    assert len(pages) == 1


def test_to_stdout_goes_the_artifact_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["collect", "--root", F10]) == 0
    assert run(["collect", "--root", F10, "-o", "-"]) == 0
    said = capsys.readouterr()
    assert said.out.count('"schema": "vfioctl.artifact/v1"') == 2
    assert os.listdir(tmp_path) == []


def test_a_page_that_is_not_ours_stays(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "host.md").write_text("# my notes\n")
    assert run(["collect", "--root", F10, "-o", str(tmp_path / "host.json")]) == 2
    assert "was not written by vfioctl collect" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["host.md"]
    assert (tmp_path / "host.md").read_text() == "# my notes\n"


@pytest.mark.parametrize(
    ("name", "page"), [("host", "host.md"), ("a.b.json", "a.b.md"), ("host.md", "host.md.md")]
)
def test_where_the_page_goes(name: str, page: str, tmp_path: Path) -> None:
    assert run(["collect", "--root", F10, "-o", str(tmp_path / name)]) == 0
    assert sorted(os.listdir(tmp_path)) == sorted([name, page])
    assert (tmp_path / name).read_bytes().startswith(b"{")


def test_a_pipe_or_device_is_not_replaced(tmp_path: Path, capsys: Captured) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    assert run(["collect", "--root", F10, "-o", str(tmp_path / "pipe.json")]) == 2
    assert "no regular file" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["pipe.json"]


# --- redaction ------------------------------------------------------------------------------------


def test_redacted_files_hold_neither_name_nor_serial(tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "host.json"
    assert run(["collect", "--redact", "--root", F10, "-o", str(target)]) == 0
    said = capsys.readouterr().err
    assert ", redacted (" in said
    assert "judged differently" not in said
    snapshot = decode_artifact(target.read_bytes())
    assert snapshot.readings.redacted is not None
    facts = look(F10).snapshot.facts
    serials = {f.config.serial_number for f in facts.functions or () if f.config is not None}
    for name in ("host.json", "host.md"):
        text = (tmp_path / name).read_text()
        assert "gpubox" not in text
        assert not any(serial in text for serial in serials if serial)
    assert snapshot.readings.redacted in (tmp_path / "host.md").read_text()


def test_each_redacted_file_has_its_own_names(tmp_path: Path, capsys: Captured) -> None:
    hosts = set()
    for _ in range(2):
        assert run(["collect", "--redact", "--root", F10]) == 0
        hosts.add(json.loads(capsys.readouterr().out)["facts"]["host"])
    assert len(hosts) == 2


def test_a_key_file_makes_redacted_files_comparable(tmp_path: Path, capsys: Captured) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    for name in ("f10", "f11"):
        root = str(HOSTS / f"gpubox-{name}.tar.gz")
        target = str(tmp_path / f"{name}.json")
        assert run(["collect", "--redact-key", str(key), "--root", root, "-o", target]) == 0
    capsys.readouterr()
    assert run(["diff", str(tmp_path / "f10.json"), str(tmp_path / "f11.json")]) == 2
    text = capsys.readouterr().out
    assert "HARMFUL   2 firmware  4 moved  2 widened" in text
    assert "MATCHED" not in text


@pytest.mark.parametrize("content", [None, b"short"])
def test_a_key_that_is_none_is_refused(
    content: bytes | None, tmp_path: Path, capsys: Captured
) -> None:
    key = tmp_path / "key"
    if content is not None:
        key.write_bytes(content)
    assert run(["collect", "--redact-key", str(key), "--root", F10]) == 64
    said = capsys.readouterr()
    assert said.out == ""
    assert "--redact-key" in said.err


# --- the script -----------------------------------------------------------------------------------


def test_the_script_is_printed_as_it_is(capsys: Captured) -> None:
    assert run(["collect", "--script"]) == 0
    said = capsys.readouterr()
    assert said.out == SCRIPT.read_text() == load_script()
    assert said.out.startswith("#!/bin/sh\n")
    assert said.err == ""


def test_the_script_can_be_written(tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "gather.sh"
    assert run(["collect", "--script", "-o", str(target)]) == 0
    assert target.read_text() == SCRIPT.read_text()
    assert "sudo sh gather.sh" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["gather.sh"]


@pytest.mark.parametrize("option", [["--root", F10], ["--redact"], ["--redact-key", "x"]])
def test_the_script_goes_with_nothing_else(option: list[str], capsys: Captured) -> None:
    assert run(["collect", "--script", *option]) == 64
    assert "--script" in capsys.readouterr().err


def test_the_script_is_readable_and_plain() -> None:
    text = load_script()
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 120
    comments = sum(1 for line in text.splitlines() if line.lstrip().startswith("#"))
    assert comments > 40


def test_this_machine_is_judged_the_same_from_the_scripts_file(
    tmp_path: Path, capsys: Captured
) -> None:
    target = tmp_path / "here.tar.gz"
    assert run(["collect", "--script"]) == 0
    script = tmp_path / "gather.sh"
    script.write_text(capsys.readouterr().out)
    subprocess.run(["sh", str(script), str(target)], check=True, capture_output=True, timeout=200)
    run(["check", "-o", "json", "--root", str(target)])
    there = json.loads(capsys.readouterr().out)
    run(["check", "-o", "json"])
    here = json.loads(capsys.readouterr().out)
    # what moves between two looks, what only an ioctl tells, and the ledger, which a file lacks
    moving = {"memory-headroom", "host-contention", "cpu-virtualization", "reset-history"}
    found = [
        {
            (f["check"], f["subject"], f["verdict"], f["code"])
            for f in document["findings"]
            if f["check"] not in moving
        }
        for document in (here, there)
    ]
    assert found[0] == found[1]
    assert here["host"] == there["host"]
