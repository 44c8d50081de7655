"""Collecting VM configurations: what is there, what is not known, and what is never kept."""

from __future__ import annotations

import errno
import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect import collect_host
from vfio_agent.collect.capture import capture_host
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, open_root
from vfio_agent.collect.vms import collect_mappings, collect_vms, read_qemus

CONF = "cipassword: hunter2\nhostpci0: 01:00,pcie=1\nmachine: q35\nonboot: 1\n"
DOMAIN = (
    "<domain type='kvm'>\n<name>web</name><devices><graphics passwd='hunter2'/>\n"
    "<hostdev type='pci' managed='yes'><source><address bus='2' slot='0' function='0'/></source>"
    "</hostdev></devices></domain>"
)
COMMAND = "/usr/bin/qemu-system-x86_64\0-name\0lone\0-device\0vfio-pci,host=03:00.0\0"


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    tree = SysfsTree(tmp_path / "host")
    tree.host()
    tree.function("0000:01:00.0", group=1)
    return tree


def fill(tree: SysfsTree) -> None:
    tree.write("/etc/pve/qemu-server/101.conf", CONF)
    tree.write("/etc/pve/qemu-server/README", "no configuration")
    tree.write("/etc/pve/mapping/pci.cfg", "gpu\n\tmap node=alpha,path=0000:01:00.0\n")
    tree.write("/etc/libvirt/qemu/web.xml", DOMAIN)
    tree.mkdir("/etc/libvirt/qemu/networks")
    tree.write("/proc/900/comm", "qemu-system-x86\n")
    tree.write("/proc/900/cmdline", COMMAND + "-append\0token=hunter2\0")
    tree.write("/proc/901/comm", "bash\n")
    tree.write("/proc/901/cmdline", "bash\0-c\0hunter2\0")
    tree.write("/proc/902/comm", "kvm\n")
    tree.write("/proc/902/cmdline", "/usr/bin/kvm\0-id\x00101\0-device\0vfio-pci,host=01:00.0\0")


def live(tree: SysfsTree) -> Reader:
    return Reader(LiveRoot(str(tree.top)))


def test_a_host_without_any_is_known_to_have_none(tree: SysfsTree) -> None:
    reader = live(tree)
    assert collect_vms(reader, read_qemus(reader)) == ()
    assert collect_mappings(reader) == ()
    assert not reader.gaps


def test_all_three_sources_and_each_vm_once(tree: SysfsTree) -> None:
    fill(tree)
    reader = live(tree)
    vms = collect_vms(reader, read_qemus(reader))
    assert vms is not None
    assert [(vm.kind, vm.name, vm.source) for vm in vms] == [
        ("libvirt", "web", "/etc/libvirt/qemu/web.xml"),
        ("proxmox", "101", "/etc/pve/qemu-server/101.conf"),
        ("qemu", "lone", "/proc/900/cmdline"),
    ]
    assert [vm.autostart for vm in vms] == [False, True, None]
    assert [d.line for vm in vms for d in vm.devices] == [3, 2, 4]
    (mapping,) = collect_mappings(reader) or ()
    assert mapping.name == "gpu"
    tree.link("/etc/libvirt/qemu/autostart/web.xml", "/etc/libvirt/qemu/web.xml")
    again = live(tree)
    vms = collect_vms(again, read_qemus(again))
    assert [vm.autostart for vm in vms or ()] == [True, True, None]
    assert not reader.gaps


def test_a_capture_without_them_does_not_know(tree: SysfsTree) -> None:
    reader = Reader(open_root(str(tree.top)))
    assert collect_vms(reader, read_qemus(reader)) is None
    assert collect_mappings(reader) is None
    assert {gap.path: gap.remedy for gap in reader.gaps} == {
        "/etc/pve/qemu-server": "ls /etc/pve/qemu-server",
        "/etc/libvirt/qemu": "ls /etc/libvirt/qemu",
        "/etc/pve/mapping/pci.cfg": "cat /etc/pve/mapping/pci.cfg",
    }


class OrdinaryUser(LiveRoot):
    """A live root that may not read /etc/pve and libvirt's files."""

    def _names(self, path: str) -> list[str]:
        if path.startswith(("/etc/pve", "/etc/libvirt")):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return super()._names(path)


def test_what_may_not_be_read_is_a_gap_with_its_command(tree: SysfsTree) -> None:
    fill(tree)
    reader = Reader(OrdinaryUser(str(tree.top)))
    vms = collect_vms(reader, read_qemus(reader))
    assert [vm.name for vm in vms or ()] == ["101", "lone"]  # what runs shows itself
    gaps = {gap.path: gap for gap in reader.gaps}
    assert gaps["/etc/pve/qemu-server"].errno == errno.EACCES
    assert gaps["/etc/libvirt/qemu"].remedy == "sudo vfioctl check"


def test_broken_files_are_gaps_and_the_others_are_read(tree: SysfsTree) -> None:
    fill(tree)
    tree.write("/etc/libvirt/qemu/bomb.xml", "<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>")
    tree.write("/etc/pve/qemu-server/102.conf", b"\xff\xfe\0hostpci0: 04:00\nhostpci1: 05:00\n")
    tree.write("/etc/pve/qemu-server/103.conf", "#" * (1 << 20))
    reader = live(tree)
    vms = {vm.name: vm for vm in collect_vms(reader, read_qemus(reader)) or ()}
    assert [d.addresses for d in vms["102"].devices] == [("0000:05:00",)]
    reasons = {gap.path: gap.reason for gap in reader.gaps}
    assert "document type" in reasons["/etc/libvirt/qemu/bomb.xml"]
    assert "larger than" in reasons["/etc/pve/qemu-server/103.conf"]
    assert "web" in vms


def test_a_capture_replays_the_vms_and_holds_no_secret(tree: SysfsTree, tmp_path: Path) -> None:
    fill(tree)
    target = tmp_path / "alpha.tar.gz"
    seen = capture_host(str(target), root=LiveRoot(str(tree.top)))
    assert len(seen.facts.vms or ()) == 3
    replayed = collect_host(open_root(str(target)))
    assert replayed.facts == seen.facts
    with tarfile.open(target) as tar:
        held = {m.name: tar.extractfile(m) for m in tar.getmembers() if m.isfile()}
        contents = {name: file.read() for name, file in held.items() if file is not None}
    assert not [name for name, data in contents.items() if b"hunter2" in data]
    assert "proc/901/cmdline" not in contents
    assert "proc/901/comm" not in contents
    listed = json.loads(contents["manifest.json"])["listings"].get("/proc", [])
    assert "901" not in listed
