"""`vm-machine`, `vm-cpu`, `vm-guest-driver`, `vm-memory`, `vm-display-rom`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import config_space, gpu, make_host, nic, unread
from tests.fakes.vms import GIB, make_device, make_vm
from tests.unit.checks.lookup import find, texts
from vfio_agent.checks import (
    vm_cpu,
    vm_display_rom,
    vm_functions,
    vm_guest_driver,
    vm_machine,
    vm_memory,
)
from vfio_agent.checks.vm_virsh import VIRSH
from vfio_contract.findings import Finding, Verdict
from vfio_contract.host import Host
from vfio_contract.model import Holder, HugePages, Memory, PciFunction
from vfio_contract.vm import LIBVIRT, PROXMOX, QEMU, VmConfig, VmSetting

CARD = nic("0000:01:00.0")
CARD_VM = make_vm(make_device("0000:01:00.0"))
ALL = (vm_machine, vm_cpu, vm_guest_driver, vm_memory, vm_display_rom)

Judge = Callable[[Host], list[Finding]]


def judged(judge: Judge, vm: VmConfig, *functions: PciFunction, **changes: Any) -> Finding:
    return find(judge(make_host(*(functions or (CARD,)), vms=(vm,), **changes)), f"vm:{vm.name}")


@pytest.mark.parametrize("check", ALL, ids=lambda c: c.ID)
def test_no_vms_are_not_applicable_and_unread_ones_unknown(check: Any) -> None:
    (finding,) = check.judge(make_host(CARD))
    assert (finding.subject, finding.code) == ("node", "NO_PASSTHROUGH_VMS")
    (finding,) = check.judge(make_host(CARD, vms=None))
    assert (finding.subject, finding.verdict) == ("node", Verdict.UNKNOWN)
    assert finding.missing


# --- vm-machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "pcie", "firmware", "code"),
    [
        ("q35", True, "ovmf", "VM_MACHINE_READY"),
        ("pc-q35-9.0+pve0", True, "ovmf", "VM_MACHINE_READY"),
        ("virt", None, "ovmf", "VM_MACHINE_READY"),
        ("q35", True, "", "VM_SEABIOS"),
        ("q35", True, "seabios", "VM_SEABIOS"),
        ("q35", False, "ovmf", "VM_NOT_PCIE"),
        ("pc", False, "ovmf", "VM_NOT_PCIE"),
        ("", False, "ovmf", "VM_NOT_PCIE"),
        ("pc", True, "ovmf", "VM_PCIE_ON_I440FX"),
        ("", True, "ovmf", "VM_PCIE_ON_I440FX"),
        ("pc-i440fx-8.1", True, "ovmf", "VM_PCIE_ON_I440FX"),
        ("s390-ccw-virtio", None, "", "VM_MACHINE_OTHER"),
    ],
)
def test_machine(machine: str, pcie: bool | None, firmware: str, code: str) -> None:
    device = make_device("0000:01:00.0", pcie=pcie)
    finding = judged(vm_machine.judge, make_vm(device, machine=machine, firmware=firmware))
    assert finding.code == code
    assert "/etc/pve/qemu-server/101.conf:3: machine: q35" in texts(finding)


def test_conventional_devices_need_no_pcie_port() -> None:
    vm = make_vm(make_device("0000:01:00.0", pcie=False))
    old = replace(CARD, config=config_space(port_type=None))
    assert judged(vm_machine.judge, vm, old).verdict is Verdict.PASS
    assert judged(vm_machine.judge, vm, unread(old, "config")).verdict is Verdict.WARN
    silent = judged(vm_machine.judge, vm, functions=None)
    assert (silent.verdict, silent.code) == (Verdict.UNKNOWN, "VM_MACHINE_UNKNOWN")


def test_i440fx_under_libvirt_is_no_error() -> None:
    vm = make_vm(make_device("0000:01:00.0", pcie=None), kind=LIBVIRT, machine="pc-i440fx-9.0")
    assert judged(vm_machine.judge, vm).code == "VM_NOT_PCIE"


# --- vm-cpu --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu", "accelerated", "code"),
    [
        ("host", True, "VM_CPU_READY"),
        ("host-passthrough", True, "VM_CPU_READY"),
        ("EPYC-Rome", True, "VM_CPU_READY"),
        ("", True, "VM_CPU_GENERIC"),
        ("kvm64", True, "VM_CPU_GENERIC"),
        ("host", False, "VM_NOT_ACCELERATED"),
    ],
)
def test_cpu(cpu: str, accelerated: bool, code: str) -> None:
    vm = replace(CARD_VM, cpu=cpu, accelerated=accelerated)
    finding = judged(vm_cpu.judge, vm)
    assert finding.code == code
    assert "/etc/pve/qemu-server/101.conf:2: cpu: host" in texts(finding)


# --- vm-guest-driver -----------------------------------------------------------------------------


def test_nothing_hidden_passes_and_a_hack_is_named_with_its_line() -> None:
    plain = judged(vm_guest_driver.judge, CARD_VM)
    assert (plain.verdict, plain.code) == (Verdict.PASS, "VM_GUEST_PLAIN")
    finding = judged(vm_guest_driver.judge, replace(CARD_VM, disguises=("hidden=1",)))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "VM_HIDES_KVM")
    assert "101.conf:2: hides the hypervisor: hidden=1" in texts(finding)


def test_what_proxmox_writes_for_x_vga_is_no_hack() -> None:
    device = make_device("0000:01:00.0", primary_display=True)
    running = make_vm(device, kind=QEMU, disguises=("kvm=off", "hv-vendor-id=proxmox"))
    assert judged(vm_guest_driver.judge, running).verdict is Verdict.PASS
    windows = replace(running, devices=(make_device("0000:01:00.0"),))
    assert judged(vm_guest_driver.judge, windows).verdict is Verdict.PASS
    plain = make_vm(make_device("0000:01:00.0"), kind=QEMU, disguises=("kvm=off",))
    assert judged(vm_guest_driver.judge, plain).verdict is Verdict.WARN
    written = make_vm(device, kind=PROXMOX, disguises=("kvm=off",))
    assert judged(vm_guest_driver.judge, written).verdict is Verdict.WARN


def test_the_line_is_that_of_the_word() -> None:
    settings = (
        VmSetting("cpu", "host,hv-vendor-id=other", 2),
        VmSetting("args", "-cpu host,kvm=off", 9),
    )
    tricks = ("hv-vendor-id=other", "kvm=off")
    vm = make_vm(make_device("0000:01:00.0"), disguises=tricks, settings=settings)
    shown = texts(judged(vm_guest_driver.judge, vm))
    assert "101.conf:2: hides the hypervisor: hv-vendor-id=other" in shown
    assert "101.conf:9: hides the hypervisor: kvm=off" in shown
    xml = (
        VmSetting("cpu", "mode=host-passthrough", 4),
        VmSetting("features/kvm/hidden", "state=on", 6),
        VmSetting("features/hyperv/vendor_id", "value=x", 7),
        VmSetting("qemu:commandline -cpu", "host,kvm=off", 40),
    )
    hidden = ("kvm hidden", "hyperv vendor_id=x", "cpu feature hypervisor disabled", "kvm=off")
    vm = make_vm(make_device("0000:01:00.0"), kind=LIBVIRT, disguises=hidden, settings=xml)
    finding = judged(vm_guest_driver.judge, vm)
    for line, word in zip((6, 7, 4, 40), hidden, strict=True):
        assert f":{line}: hides the hypervisor: {word}" in texts(finding)
    assert finding.decision.startswith("virsh edit 101:")


def test_libvirt_is_decided_upon_with_virsh_and_shows_the_host_s_device() -> None:
    device = make_device("0000:03:00.0", rom_bar=False, options=(("managed", "yes"),))
    vm = make_vm(device, kind=LIBVIRT, name="a b")
    finding = judged(vm_display_rom.judge, vm, gpu("0000:03:00.0", group=3))
    assert "hostpci0: 0000:03:00.0,managed=yes" in texts(finding)
    assert finding.decision.startswith("virsh edit 'a b': take <rom bar='off'/>")


def test_every_virsh_decision_is_of_a_code() -> None:
    names = {code.name for check in (*ALL, vm_functions) for code in check.CODES}
    assert set(VIRSH) <= names


def test_the_pattern_of_code_43() -> None:
    card = replace(gpu("0000:03:00.0", group=3), vendor=0x10DE)
    vm = make_vm(make_device("0000:03:00"), guest="win11", cpu="")
    finding = judged(vm_guest_driver.judge, vm, card)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "VM_CODE_43")
    assert "it lacks: the host's CPU model" in texts(finding)
    assert judged(vm_guest_driver.judge, replace(vm, cpu="host"), card).verdict is Verdict.PASS
    assert judged(vm_guest_driver.judge, replace(vm, guest="l26"), card).verdict is Verdict.PASS
    other = replace(card, vendor=0x1002)
    assert judged(vm_guest_driver.judge, vm, other).verdict is Verdict.PASS
    silent = unread(card, "vendor")
    assert judged(vm_guest_driver.judge, vm, silent).verdict is Verdict.UNKNOWN
    assert judged(vm_guest_driver.judge, vm, functions=None).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(("guest", "kind"), [("", LIBVIRT), ("", QEMU), ("other", PROXMOX)])
def test_a_guest_that_is_not_stated_may_be_windows(guest: str, kind: str) -> None:
    card = replace(gpu("0000:03:00.0", group=3), vendor=0x10DE)
    vm = make_vm(make_device("0000:03:00"), guest=guest, kind=kind, cpu="")
    finding = judged(vm_guest_driver.judge, vm, card)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "VM_GUEST_UNKNOWN")
    assert judged(vm_guest_driver.judge, replace(vm, cpu="host"), card).verdict is Verdict.PASS
    other = replace(card, vendor=0x1002)
    assert judged(vm_guest_driver.judge, vm, other).verdict is Verdict.PASS
    linux = replace(vm, guest="other debian.org/debian/12")
    assert judged(vm_guest_driver.judge, linux, card).verdict is Verdict.PASS


# --- vm-memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "VM_MEMORY_READY"),
        ({"balloon_bytes": 0}, "VM_MEMORY_READY"),
        ({"balloon_bytes": 2 * GIB}, "VM_BALLOON"),
        ({"memory_bytes": 65 * GIB}, "VM_MEMORY_TOO_LARGE"),
        ({"memory_bytes": None}, "VM_MEMORY_UNKNOWN"),
        ({"hugepages": 1 * GIB}, "VM_MEMORY_UNKNOWN"),
        ({"hugepages": 2 << 20}, "VM_HUGEPAGES_ON_DEMAND"),
        ({"hugepages": -1, "kind": LIBVIRT}, "VM_HUGEPAGES_SHORT"),
    ],
)
def test_memory(changes: dict[str, Any], code: str) -> None:
    pages = Memory(32 * GIB, hugepages_total=100, hugepages_free=0, hugepage_size_bytes=2 << 20)
    vm = replace(CARD_VM, **changes)
    finding = judged(vm_memory.judge, vm, memory=pages)
    assert finding.code == code
    assert "101.conf:4: memory: 8192" in texts(finding) or "hugepages" in changes


def test_enough_huge_pages_and_unread_amounts() -> None:
    pages = Memory(32 * GIB, hugepages_total=4096, hugepages_free=0, hugepage_size_bytes=2 << 20)
    vm = replace(CARD_VM, hugepages=2 << 20)
    assert judged(vm_memory.judge, vm, memory=pages).verdict is Verdict.PASS
    unread_pages = judged(vm_memory.judge, vm, memory=None, hugepages=None)
    assert unread_pages.verdict is Verdict.UNKNOWN
    big = (HugePages(GIB, 0, 8, 0, None), HugePages(GIB, -1, 8, 0, 0))
    vm = replace(CARD_VM, hugepages=GIB)
    assert judged(vm_memory.judge, vm, memory=pages, hugepages=big).verdict is Verdict.PASS
    short = replace(vm, memory_bytes=9 * GIB)
    finding = judged(vm_memory.judge, short, memory=pages, hugepages=big)
    assert finding.code == "VM_HUGEPAGES_ON_DEMAND"
    assert "8 huge pages of 1048576 KiB" in texts(finding)
    assert judged(vm_memory.judge, CARD_VM, memory_total_bytes=None).verdict is Verdict.UNKNOWN


def test_a_vm_at_rest_has_to_fit_into_what_is_left() -> None:
    left = Memory(6 * GIB, hugepages_total=0, hugepages_free=0, hugepage_size_bytes=2 << 20)
    finding = judged(vm_memory.judge, CARD_VM, memory=left)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "VM_MEMORY_TIGHT")
    assert "/proc/meminfo: MemAvailable 6144 MiB" in texts(finding)
    unseen = judged(vm_memory.judge, CARD_VM, memory=left, holders=None)
    assert unseen.code == "VM_MEMORY_TIGHT"
    assert "was not seen" in texts(unseen)
    shown = replace(CARD_VM, kind=QEMU, source="paste")
    assert judged(vm_memory.judge, shown, memory=left).code == "VM_MEMORY_TIGHT"
    running = replace(CARD_VM, kind=QEMU, source="/proc/4711/cmdline")
    assert judged(vm_memory.judge, running, memory=left).verdict is Verdict.PASS
    holder = Holder("/dev/vfio/1", 4711, "kvm", control_group="/qemu.slice/101.scope")
    assert judged(vm_memory.judge, CARD_VM, memory=left, holders=(holder,)).verdict is Verdict.PASS
    untold = replace(left, available_bytes=None)
    assert judged(vm_memory.judge, CARD_VM, memory=untold).verdict is Verdict.PASS


# --- vm-display-rom ------------------------------------------------------------------------------

BOOT = gpu("0000:03:00.0", group=3, boot_vga=True)


@pytest.mark.parametrize(
    ("boot", "changes", "code"),
    [
        (True, {}, "VM_ROM_SHADOWED"),
        (True, {"rom_file": "gpu.rom"}, "VM_DISPLAY_READY"),
        (False, {}, "VM_DISPLAY_READY"),
        (False, {"rom_bar": False}, "VM_ROM_HIDDEN"),
        (False, {"rom_bar": False, "rom_file": "gpu.rom"}, "VM_DISPLAY_READY"),
    ],
)
def test_display(boot: bool, changes: dict[str, Any], code: str) -> None:
    vm = make_vm(make_device("0000:03:00", **changes))
    finding = judged(vm_display_rom.judge, vm, replace(BOOT, boot_vga=boot))
    assert finding.code == code


def test_display_unknown_and_none() -> None:
    vm = make_vm(make_device("0000:03:00"))
    for field in ("boot_vga", "class_code"):
        finding = judged(vm_display_rom.judge, vm, unread(BOOT, field))
        assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "VM_DISPLAY_UNKNOWN")
    assert judged(vm_display_rom.judge, vm, functions=None).verdict is Verdict.UNKNOWN
    assert judged(vm_display_rom.judge, CARD_VM).code == "VM_NO_DISPLAY"


def test_a_setting_that_is_not_written_points_at_the_file() -> None:
    vm = replace(CARD_VM, cpu="", settings=(VmSetting("name", "a", 1),))
    assert "/etc/pve/qemu-server/101.conf: cpu: not stated" in texts(judged(vm_cpu.judge, vm))
