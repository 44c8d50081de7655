"""`vfioctl diagnose`: its screens, documents, exit codes and mistakes."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.diagnosis import SYMPTOMS
from vfio_cli.main import run

HOSTS = Path(__file__).resolve().parents[2] / "data" / "hosts"
IOMMU_OFF = str(HOSTS / "iommu-off.tar.gz")
BUSY = "vfio 0000:01:00.0: Could not open '/dev/vfio/14': Device or resource busy"


def give_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("symptom", [s.name for s in SYMPTOMS])
@pytest.mark.parametrize("host", ["iommu-off", "ir-off", "gpubox-f11", "m3-intel-6.12"])
def test_every_symptom_has_a_screen_of_80_columns(
    symptom: str, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(HOSTS / f"{host}.tar.gz")
    code = run(["diagnose", "--symptom", symptom, "--root", root])
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines()), text
    assert text.isascii()
    assert run(["diagnose", "--symptom", symptom, "--root", root, "-o", "json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "vfioctl.diagnosis/v1"
    assert document["symptom"] == symptom
    looked = [row["check"] for row in document["looked_at"]]
    (steps,) = ([step.check for step in s.steps] for s in SYMPTOMS if s.name == symptom)
    assert [*looked, *document["not_looked_at"]] == steps
    assert bool(document["found"]) == ("CAUSE:" in text.splitlines()[0])
    if code == 0:
        assert "NOTHING FOUND" in text
    else:
        assert "NOTHING FOUND" not in text.splitlines()[0] or code == 1
    other = [row["code"] for row in document["not_this_symptom"]]
    assert ("NOT THIS SYMPTOM" in text) == bool(other)


def test_the_digging_stops_at_an_iommu_that_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diagnose", "--symptom", "wont-start", "--root", IOMMU_OFF]) == 2
    text = capsys.readouterr().out
    assert "ROOT CAUSE: iommu-active" in text.splitlines()[0]
    assert "field guide, mistake 1" in text
    assert text.index("  PASS     cpu-virtualization") < text.index("  FAIL     iommu-active")
    assert "Why iommu-active says so:\nFAIL  kernel-cmdline  CMDLINE_SABOTAGE" in text
    assert "Not looked at, because the digging stops here: interrupt-remapping" in text


def test_what_cannot_be_excluded_has_its_command(
    tree: SysfsTree, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tree.top / "etc/pve")
    assert run(["diagnose", "--symptom", "slow", "--root", str(tree.top)]) == 3
    text = capsys.readouterr().out
    assert "NOT KNOWN: evidence is missing" in text.splitlines()[0]
    assert "NOT EXCLUDED" in text
    assert "ls /etc/pve/qemu-server" in text
    assert "What this host's evidence cannot show:" in text


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    tree = SysfsTree(tmp_path / "host")
    tree.host()
    tree.iommu()
    tree.function("0000:01:00.0", group=1, driver="vfio-pci")
    tree.function("0000:02:00.0", group=2, driver="nvme")
    tree.write("/proc/meminfo", "MemTotal: 16384000 kB\n")
    tree.mkdir("/etc/libvirt/qemu")
    tree.write("/etc/pve/qemu-server/101.conf", "machine: q35\nhostpci0: 09:00.0,pcie=1\n")
    tree.write("/etc/pve/qemu-server/102.conf", "machine: q35\nhostpci0: 01:00.0,pcie=1\n")
    return tree


def diagnose(tree: SysfsTree, *arguments: str) -> int:
    return run(["diagnose", "--symptom", "device-missing", "--root", str(tree.top), *arguments])


def test_one_vm_is_asked_for(tree: SysfsTree, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagnose(tree, "--vm", "101") in (1, 3)
    text = capsys.readouterr().out
    assert "ROOT CAUSE" not in text
    assert "NOT THIS SYMPTOM, but wrong all the same (that is wont-start):" in text
    assert "FAIL  vm-functions  VM_DEVICE_MISSING" in text
    diagnose(tree, "--vm", "102", "-o", "json")
    document = json.loads(capsys.readouterr().out)
    assert document["about"] == "VM 102"
    subjects = {s for row in document["looked_at"] for s in row["subjects"]}
    assert "vm:101" not in subjects
    assert {"vm:102", "function:0000:01:00.0"} <= subjects


def test_one_device_is_asked_for(tree: SysfsTree, capsys: pytest.CaptureFixture[str]) -> None:
    diagnose(tree, "--device", "01:00.0", "-o", "json")
    document = json.loads(capsys.readouterr().out)
    subjects = {s for row in document["looked_at"] for s in row["subjects"]}
    assert "vm:102" in subjects
    assert not subjects & {"vm:101", "function:0000:02:00.0"}
    assert diagnose(tree, "--device", "02:00.0") in (2, 3)
    text = capsys.readouterr().out
    assert "of 0000:02:00.0" in text
    assert "no VM that was read" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "wont-start, device-missing, works-once, host-freezes, slow, group-with-everything"),
        (["--symptom", "headache"], "'black-screen'"),
        (["--symptom", "slow", "--error", "x"], "give one of them"),
        (["--error", "x", "--root", "/"], "--error looks at no host"),
        (["--error", "x", "--device", "01:00.0"], "--error looks at no host"),
        (["--symptom", "slow", "--root", IOMMU_OFF, "--from", "x"], "--root and --from"),
        (["--symptom", "slow", "--device", "01:00.0", "--vm", "1"], "--device and --vm"),
        (["--symptom", "slow", "--root", IOMMU_OFF, "--device", "here"], "--device"),
        (["--symptom", "slow", "--root", IOMMU_OFF, "--device", "ff:1f.7"], "no such function"),
        (["--symptom", "slow", "--root", IOMMU_OFF, "--vm", "1"], "no such VM"),
        (["--symptom", "slow", "--root", IOMMU_OFF, "--vm", ""], "no such VM"),
        (
            ["--symptom", "slow", "--root", IOMMU_OFF, "--device", "ff:1f.7"],
            f"vfioctl device list --root {IOMMU_OFF}",
        ),
        (["--symptom", "slow", "x.txt"], "--from x.txt"),
        (["--error", ""], "the text is empty"),
        (["--error", " \n\t\n"], "the text is empty"),
        (["--error", IOMMU_OFF], "that is a file: vfioctl diagnose --error - <"),
    ],
)
def test_mistakes_are_64_and_name_the_choices(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["diagnose", *arguments]) == 64
    said = capsys.readouterr()
    assert says in " ".join(said.err.split())
    assert said.out == ""


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (BUSY, 2, "CAUSE: group-busy"),
        ("vfio-pci 0000:01:00.0: not ready 1023ms after FLR; waiting", 1, "NO FAILURE"),
        ("AMD-Vi: Unknown option - 'on'", 0, "NO FAILURE"),
        ("DMAR: Intel(R) Virtualization Technology for Directed I/O", 0, "NO FAILURE"),
        ("DMAR: IOMMU enabled", 3, "NOT PROVED: iommu-active"),
        ("my cat sat on the keyboard", 3, "NOT RECOGNISED"),
    ],
)
def test_messages_and_their_exit_codes(
    text: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["diagnose", "--error", text]) == code
    screen = capsys.readouterr().out
    assert screen.startswith(says)
    assert all(len(line) <= 80 for line in screen.splitlines())


def test_a_failure_is_explained_with_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diagnose", "--error", BUSY]) == 2
    text = capsys.readouterr().out
    assert "  about     0000:01:00.0; group 14\n" in text
    assert "  proof     check device-holders: vfioctl explain device-holders\n" in text
    assert "Next: sudo vfioctl diagnose --symptom wont-start --device 0000:01:00.0" in text


def test_a_whole_log_on_stdin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = (
        "> [    0.000000] DMAR: IOMMU enabled\r\n"
        "> [    0.100000] DMAR: No DMAR devices found\r\n"
        "<4>[    9.000000] vfio-pci: probe of 0000:01:00.0 failed with error -22\r\n"
        "something else\r\n"
    )
    give_stdin(monkeypatch, log.encode())
    assert run(["diagnose", "--error", "-", "-o", "json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "vfioctl.diagnosis/v1"
    assert document["root_cause"] == "no-dmar-table"
    assert [m["id"] for m in document["messages"]] == [
        "no-dmar-table",
        "vfio-probe-22",
        "iommu-enabled-announced",
    ]
    assert document["messages"][1]["follows"] == ["no-dmar-table"]
    assert document["messages"][1]["addresses"] == ["0000:01:00.0"]
    assert [c["check"] for c in document["messages"][1]["causes"]] == [
        "iommu-active",
        "group-isolation",
    ]
    assert document["unrecognised_lines"] == 1
    assert document["messages"][0]["text"] == [{"line": 2, "text": "DMAR: No DMAR devices found"}]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\0\0", b" \r\n"])
def test_an_empty_stdin_is_a_mistake(
    data: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_stdin(monkeypatch, data)
    assert run(["diagnose", "--error", "-"]) == 64
    assert "stdin was empty" in capsys.readouterr().err


def test_failures_are_counted_with_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    run(["diagnose", "--error", f"{BUSY}\nDMAR: No DMAR devices found"])
    text = capsys.readouterr().out
    assert "2 failures; 2 lines read" in text
    run(["diagnose", "--error", BUSY])
    assert "1 failure; 1 line read" in capsys.readouterr().out


def test_a_vm_is_asked_for_by_its_name(tree: SysfsTree, capsys: pytest.CaptureFixture[str]) -> None:
    conf = "/etc/pve/qemu-server/"
    tree.write(f"{conf}101.conf", "name: win10\nmachine: q35\nhostpci0: 09:00.0,pcie=1\n")
    tree.write(f"{conf}103.conf", "name: twin\nmachine: q35\n")
    tree.write(f"{conf}104.conf", "name: twin\nmachine: q35\n")
    tree.write(f"{conf}105.conf", "name: 102\nmachine: q35\n")
    diagnose(tree, "--vm", "win10")
    text = capsys.readouterr().out
    assert "device-missing of VM 101 (win10)" in text.splitlines()[0]
    assert "VM_DEVICE_MISSING" in text
    diagnose(tree, "--vm", "102", "-o", "json")
    assert json.loads(capsys.readouterr().out)["about"] == "VM 102"
    assert diagnose(tree, "--vm", "twin") == 64
    assert "give one of 103, 104" in " ".join(capsys.readouterr().err.split())
    assert diagnose(tree, "--vm", "nobody") == 64
    assert "101 (win10), 102" in " ".join(capsys.readouterr().err.split())


def test_a_black_screen_is_about_displays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = SysfsTree(tmp_path / "host")
    tree.host()
    tree.iommu()
    tree.function("0000:03:00.0", group=3, driver="vfio-pci", class_code=0x020000)
    tree.function("0000:04:00.0", group=3, driver="nvme", class_code=0x010802)
    arguments = ["diagnose", "--symptom", "black-screen", "--root", str(tree.top)]
    assert run(["diagnose", "--symptom", "group-with-everything", *arguments[3:]]) == 2
    assert "GROUP_DIRTY" in capsys.readouterr().out
    assert run(arguments) == 3
    text = capsys.readouterr().out
    assert "GROUP_DIRTY" not in text
    assert "No display (class 03xx) was found on this host" in text
    assert run([*arguments, "--device", "03:00.0"]) == 2
    assert "ROOT CAUSE: group-isolation" in capsys.readouterr().out
    tree.function("0000:05:00.0", group=5, driver="nouveau", class_code=0x030000)
    assert run(arguments) == 3
    text = " ".join(capsys.readouterr().out.split())
    assert "is known to be meant for passthrough; there are: 0000:05:00.0." in text
    assert f"black-screen --root {tree.top} --device ADDRESS" in text
    tree.function("0000:06:00.0", group=6, driver="vfio-pci", class_code=0x030000)
    tree.function("0000:07:00.0", group=6, driver="nvme", class_code=0x010802)
    assert run([*arguments, "-o", "json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert {row["subject"] for row in document["found"]} == {"group:6"}


def test_a_pasted_group_listing_shows_the_members_that_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    links = tmp_path / "GROUPS.txt"
    links.write_text(
        "".join(f"/sys/kernel/iommu_groups/1/devices/0000:{n:02x}:00.0\n" for n in range(1, 60))
    )
    arguments = ["diagnose", "--symptom", "group-with-everything", "--from", str(links)]
    assert run([*arguments, "--device", "01:00.0"]) == 3
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 50
    assert "holds 0000:01:00.0 and 58 others: 0000:02:00.0" in " ".join(text.split())
    rows = "".join(
        f"\t0{n}:00.0 PCI bridge [0604]: Red Hat, Inc. [1b36:000c]\n" for n in range(1, 9)
    )
    links.write_text(
        f"IOMMU Group 1:\n{rows}\t09:00.0 VGA compatible controller [0300]: Red [1b36:0100]\n"
        "IOMMU Group 2:\n\t0a:00.0 USB controller [0c03]: Red Hat [1b36:000d]\n"
    )
    assert run([*arguments, "--device", "09:00.0"]) == 3
    text = capsys.readouterr().out
    doubts = text.partition("NOT EXCLUDED  ")[2]
    assert doubts.startswith("group-isolation: group 1: not known\n  evidence  0000:01:00.0 [0604]")
    assert "0000:09:00.0 [0300]" in doubts
    assert text.count("find /sys/kernel/iommu_groups -type l") == 1
    assert "on the host that this evidence is of" in text


def test_hostile_text_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    text = f"\x1b[2J\x1b]0;title\x07\u202e{BUSY}\x07\udcff"
    assert run(["diagnose", "--error", text]) == 2
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert out.isascii()


def test_the_names_are_completed(capsys: pytest.CaptureFixture[str]) -> None:
    import click
    from click.shell_completion import ShellComplete

    from vfio_cli.main import cli

    complete = ShellComplete(cli, {}, "vfioctl", "_VFIOCTL_COMPLETE")
    found = [c.value for c in complete.get_completions(["diagnose", "--symptom"], "wo")]
    assert found == ["wont-start", "works-once"] or found == ["works-once", "wont-start"]
    assert isinstance(cli, click.Group)


def test_neither_question_needs_the_wire() -> None:
    import subprocess

    for arguments in (["--error", BUSY], ["--symptom", "slow", "--root", IOMMU_OFF]):
        script = (
            f"import sys; from vfio_cli.main import run; run(['diagnose', *{arguments!r}]); "
            "print([m for m in ('grpc', 'google.protobuf', 'vfioctl', 'yaml') "
            "if m in sys.modules], file=sys.stderr)"
        )
        result = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert result.stderr == "[]\n", result.stdout
