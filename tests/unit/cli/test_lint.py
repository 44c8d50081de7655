"""`vfioctl vm lint`: VM configurations of a captured host, with file, line and exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes.sysfs_tree import SysfsTree
from vfio_cli.main import run

CONF = "bios: ovmf\ncpu: host\nhostpci0: 01:00,pcie=1\nhostpci1: 01:00.1,pcie=1\nmachine: q35\n"


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    tree = SysfsTree(tmp_path / "host")
    tree.host()
    tree.iommu()
    for number in (0, 1):
        tree.function(f"0000:01:00.{number}", group=1, driver="vfio-pci")
    tree.write("/proc/meminfo", "MemTotal: 16384000 kB\n")
    tree.mkdir("/etc/libvirt/qemu")
    tree.write("/etc/pve/qemu-server/101.conf", CONF)
    tree.write("/etc/pve/qemu-server/102.conf", "memory: 2048\nname: plain\n")
    return tree


def lint(tree: SysfsTree, *arguments: str) -> int:
    return run(["vm", "lint", "--root", str(tree.top), *arguments])


def test_an_overlap_is_named_with_file_and_line(
    tree: SysfsTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lint(tree) == 2
    text = capsys.readouterr().out
    assert "VM 101: /etc/pve/qemu-server/101.conf" in text
    assert "FAIL  vm-functions  VM_DEVICE_TWICE  vm 101" in text
    assert "/etc/pve/qemu-server/101.conf:4: hostpci1" in text
    assert "102" not in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_only_vm_findings_and_only_the_vm_asked_for(
    tree: SysfsTree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.write("/etc/pve/qemu-server/103.conf", "hostpci0: 09:00.0\n")
    assert lint(tree, "101", "-o", "json") == 2
    document = json.loads(capsys.readouterr().out)
    assert {f["check"][:3] for f in document["findings"]} == {"vm-"}
    assert {f["subject"] for f in document["findings"]} == {"vm:101"}


def test_an_unknown_vm_is_a_mistake(tree: SysfsTree, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(tree, "999") == 64
    assert "no VM '999' here; there are: 101, 102" in capsys.readouterr().err


def test_nothing_captured_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = SysfsTree(tmp_path / "bare")
    bare.host()
    assert lint(bare) == 3
    text = capsys.readouterr().out
    assert "ls /etc/pve/qemu-server" in text
    assert "No VM that was read names a host device." in text
