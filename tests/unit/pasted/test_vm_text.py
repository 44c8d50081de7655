"""VMs and configuration in pasted text: judged as the files are, never more than was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.pasted.pastes import LSPCI_VV, by_subject, judge_stdin, judge_text
from vfio_agent.inspect import inspect_evidence
from vfio_agent.vmconf.libvirt import parse_libvirt
from vfio_agent.vmconf.proxmox import parse_proxmox
from vfio_contract.findings import Verdict
from vfio_contract.vm import VmConfig

CONFIG = (
    "agent: 1\nballoon: 2048\nbios: ovmf\ncores: 8\nhostpci0: 0000:01:00,pcie=1\n"
    "machine: pc-i440fx-8.1\nmemory: 16384\nname: win10\nostype: win10\n"
    "scsihw: virtio-scsi-single\n"
)
SHOWCMD = (
    "/usr/bin/kvm \\\n  -id 102 \\\n  -name 'lin,debug-threads=on' \\\n  -machine 'type=q35' \\\n"
    "  -device 'vfio-pci,host=0000:01:00.0,id=hostpci0.0,bus=ich9-pcie-port-1' \\\n  -m 8192\n"
)
DOMAIN = (
    "<domain type='kvm'>\n  <name>games</name>\n  <memory unit='GiB'>8</memory>\n"
    "  <os><type arch='x86_64' machine='q35'>hvm</type></os>\n  <devices>\n"
    "    <hostdev mode='subsystem' type='pci' managed='yes'>\n      <source>\n"
    "        <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>\n"
    "      </source>\n    </hostdev>\n  </devices>\n</domain>\n"
)
MAPPING = "gpu\n\tmap id=10de:1b80,iommugroup=1,node=pve,path=0000:01:00.0\n"
GRUB = 'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on"\nGRUB_CMDLINE_LINUX=""\n'


def vms_of(text: str) -> tuple[VmConfig, ...]:
    return judge_stdin(text.encode()).snapshot.facts.vms or ()


def test_qm_config_is_judged_as_the_file_and_names_the_pastes_line(tmp_path: Path) -> None:
    seen = judge_text("$ qm config 101\n" + CONFIG, LSPCI_VV, tmp_path=tmp_path)
    found = by_subject(seen, "vm-machine")["vm:101"]
    assert found.code == "VM_PCIE_ON_I440FX"
    assert [e.source for e in found.evidence] == [f"{tmp_path}/paste-0:7", f"{tmp_path}/paste-0:6"]
    # whether there are other VMs nobody said; one check says so for all
    assert by_subject(seen, "vm-functions")["node"].verdict is Verdict.UNKNOWN
    assert any(m.command == "qm config VMID" for m in seen.report.missing)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (CONFIG, "win10"),
        ("root@pve:~# qm config 7\n" + CONFIG, "7"),
        ("root@pve:~# cat /etc/pve/qemu-server/8.conf\n" + CONFIG, "8"),
        ("==> /etc/pve/qemu-server/9.conf <==\n" + CONFIG, "9"),
        ("> $ qm config 5\n" + "".join(f"> {line}\n" for line in CONFIG.splitlines()), "5"),
        (SHOWCMD, "102"),
        ("root 77 9.1 2.0 1 1 ? Sl 10:00 1:02 " + SHOWCMD.replace("\\\n ", ""), "102"),
        (DOMAIN, "games"),
        ("<?xml version='1.0'?>\n" + DOMAIN, "games"),
    ],
)
def test_where_a_vm_gets_its_name(text: str, name: str) -> None:
    (vm,) = vms_of(text)
    assert vm.name == name
    assert [a[:10] for d in vm.devices for a in d.addresses] == ["0000:01:00"]


def test_a_vm_without_any_name_has_a_stable_one() -> None:
    text = CONFIG.replace("name: win10\n", "")
    (vm,), (again,) = vms_of(text), vms_of("Hello,\n\n" + text + "\nBye\n")
    assert vm.name == again.name
    assert vm.name.startswith("pasted-")


def test_sections_of_a_configuration_are_not_the_vm() -> None:
    (vm,) = vms_of(CONFIG + "\n[before]\nhostpci0: 0000:02:00\nostype: l26\nparent: x\n")
    assert [d.addresses for d in vm.devices] == [("0000:01:00",)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CONFIG[:-3], "may be cut"),
        (SHOWCMD[:-3], "may be cut"),
        (SHOWCMD.replace("8192", "'8192"), "quotes"),
        (DOMAIN.replace("</domain>", ""), "no </domain>"),
        (DOMAIN.replace("<name>", "<names>"), "mismatched"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]>\n" + DOMAIN.replace("</name>", "&b;</name>"), "undefined"),
        ("<domain>" + "<a>" * 100 + "\n</domain>\n", "nested deeper"),
        (MAPPING[:-3], "may be cut"),
        (GRUB.replace('GRUB_CMDLINE_LINUX=""\n', ""), "not whole"),
        (GRUB.replace('LINUX=""', 'LINUX="$(x)"'), "only a shell"),
        ("      total   used  free\nMem:   64000  1 1\n", "unit"),
        ("-[0000:00]-+-00.0\n           \\-01.0-[01]--\n", "lspci -nnk"),
    ],
)
def test_what_is_cut_or_cannot_be_told_is_left_out_and_said(text: str, reason: str) -> None:
    seen = judge_stdin(text.encode())
    assert reason in seen.given[0].text
    assert not seen.snapshot.facts.vms
    assert not seen.snapshot.facts.mappings
    assert not seen.snapshot.facts.boot_options
    assert seen.snapshot.facts.memory_total_bytes is None


def test_mappings_count_only_when_the_host_is_known() -> None:
    named = CONFIG.replace("0000:01:00,", "mapping=gpu,")
    seen = judge_stdin((named + "\n" + MAPPING + "\n").encode())
    assert seen.snapshot.facts.host == "pve"  # the only node that the mapping knows
    assert [m.name for m in seen.snapshot.facts.mappings or ()] == ["gpu"]
    two = MAPPING + MAPPING.replace("gpu\n", "").replace("node=pve", "node=other")
    assert judge_stdin(two.encode()).snapshot.facts.mappings is None
    told = judge_stdin(("root@other:~# cat pci.cfg\n" + two).encode()).snapshot.facts
    assert told.host == "other"
    assert told.mappings is not None


def test_wishes_are_taken_and_nothing_is_ruled_out() -> None:
    rules = "/etc/modprobe.d/v.conf:options vfio-pci ids=10de:1b80\n/etc/modprobe.d/b.conf:x\n"
    seen = judge_stdin((rules + "\n0000:01:00.1 vfio-pci\n").encode())
    facts = seen.snapshot.facts
    assert [(i.kind, i.value, i.source) for i in facts.intents or ()] == [
        ("driverctl", "0000:01:00.1", "standard input:4"),
        ("vfio-ids", "10de:1b80", "standard input:1"),
    ]
    assert facts.module_rules is None


def test_boot_options_memory_syncs_and_users_are_taken() -> None:
    text = (
        f"{GRUB}\nMemTotal:       65786312 kB\nMemAvailable:   40000000 kB\n\n"
        "CPU BOGOMIPS:      48000.00\nFSYNCS/SECOND:     25.00\n\n"
        "                     USER        PID ACCESS COMMAND\n"
        "/dev/vfio/12:        root       1234 F.... kvm\n"
    )
    snapshot = judge_stdin(text.encode()).snapshot
    assert [r.options for r in snapshot.facts.boot_options or ()] == ["", "quiet intel_iommu=on"]
    assert snapshot.facts.memory_total_bytes == 65786312 << 10
    assert snapshot.readings.fsync is not None
    assert snapshot.readings.fsync.median_ms == 40.0
    assert [(h.path, h.pid, h.command) for h in snapshot.readings.holders or ()] == [
        ("/dev/vfio/12", 1234, "kvm")
    ]
    rounded = (
        "     total  used  free  shared  buff/cache  available\nMem: 62Gi 1Gi 1Gi 1Gi 1Gi 50Gi\n"
    )
    memory = judge_stdin(rounded.encode()).snapshot
    assert memory.facts.memory_total_bytes == 62 << 30


def test_etc_kernel_cmdline_is_not_what_runs() -> None:
    text = "root@pve:~# cat /etc/kernel/cmdline\nroot=ZFS=rpool/ROOT/pve-1 boot=zfs iommu=off\n"
    seen = judge_stdin(text.encode())
    assert seen.snapshot.facts.cmdline is None
    assert "next boot" in seen.given[0].text


MACHINE = (
    '00:01.0 "PCI bridge [0604]" "Intel Corporation [8086]" "Root Port [1901]" -r07 -p00 "" ""\n'
    '01:00.0 "VGA compatible controller [0300]" "NVIDIA Corporation [10de]" "GP104 [1b80]" -ra1 '
    '"Gigabyte [1458]" "Device [3702]"\n'
)
VERBOSE = (
    "Slot:\t01:00.0\nClass:\tVGA compatible controller [0300]\nVendor:\tNVIDIA Corporation [10de]\n"
    "Device:\tGP104 [1b80]\nSVendor:\tGigabyte [1458]\nSDevice:\tDevice [3702]\nRev:\ta1\n"
    "Driver:\tvfio-pci\nModule:\tnouveau\nNUMANode:\t0\nIOMMUGroup:\t1\n\n"
)


@pytest.mark.parametrize("text", [MACHINE, VERBOSE], ids=["-mm", "-vmm"])
def test_lspci_for_machines(text: str) -> None:
    seen = judge_stdin(text.encode())
    assert seen.given[0].kinds == ("lspci",)
    gpu = seen.host.by_address["0000:01:00.0"]  # type: ignore[index]
    assert (gpu.ids, gpu.sub_class, gpu.revision) == ("10de:1b80", 0x0300, 0xA1)
    if text is VERBOSE:
        assert (gpu.driver, gpu.group, gpu.subsystem_device) == ("vfio-pci", 1, 0x3702)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        ("proxmox/upstream-tests/*.conf", "qm config"),
        ("proxmox/upstream-tests/*.conf.cmd", "QEMU command line"),
        ("libvirt/*.xml", "libvirt domain"),
    ],
)
def test_every_shared_configuration_gives_its_vm(pattern: str, kind: str, shared: Path) -> None:
    paths = sorted((shared / "captures" / "vmconf").glob(pattern))
    assert len(paths) >= 8
    for path in paths:
        seen = inspect_evidence([str(path)])
        assert kind in seen.given[0].kinds, path
        (vm,) = seen.snapshot.facts.vms or ()
        text = path.read_bytes()
        if kind == "qm config":
            plain = parse_proxmox(text.decode(), name=vm.name, source=str(path))
        elif kind == "libvirt domain":
            made = parse_libvirt(text, source=str(path), autostart=None)
            assert isinstance(made, VmConfig)
            plain = made
        else:
            continue
        assert vm.devices == plain.devices, path
        assert seen.report.verdict is not Verdict.PASS
