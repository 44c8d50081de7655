"""Kernel, processor, modules, interrupts, memory and keyboards from /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.cpu import collect_cpu, collect_kvm_device, machine_of, parse_cpuinfo
from vfio_agent.collect.interrupts import collect_interrupt_chips, parse_chips
from vfio_agent.collect.kernel import (
    collect_boot_id,
    collect_cmdline,
    collect_kernel,
    collect_uptime,
    parse_version_line,
)
from vfio_agent.collect.keyboards import collect_keyboards, parse_input_devices
from vfio_agent.collect.memory import collect_memory, collect_memory_total, parse_meminfo
from vfio_agent.collect.modules import collect_modules
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, open_root
from vfio_contract.model import Cpu, Kernel, Memory, Module

VERSION = (
    "Linux version 6.1.0-56-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) "
    "12.2.0, GNU ld 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)"
)
BUILD = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)"
INTEL = """\
processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model name	: Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz
microcode	: 0x2006e05
flags		: fpu vme lm vmx ept

processor	: 1
vendor_id	: SomebodyElse
flags		: fpu
"""
ARM = """\
processor	: 0
Features	: fp asimd evtstrm aes
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
"""
POWER = "processor\t: 0\ncpu\t\t: POWER9, altivec supported\nclock\t\t: 3800MHz\n"
RISCV = "processor\t: 0\nhart\t\t: 1\nisa\t\t: rv64imafdc\nuarch\t\t: sifive,u74-mc\n"


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path)


def live(tree: SysfsTree) -> Reader:
    return Reader(LiveRoot(str(tree.top)))


def captured(tree: SysfsTree) -> Reader:
    return Reader(open_root(str(tree.top)))


# --- kernel --------------------------------------------------------------------------------------


def test_the_kernel_by_its_own_files(tree: SysfsTree) -> None:
    tree.write("/proc/sys/kernel/osrelease", "6.8.12-4-pve\n")
    tree.write("/proc/sys/kernel/version", "#1 SMP PREEMPT_DYNAMIC PMX 6.8.12-4\n")
    tree.write("/proc/sys/kernel/arch", "x86_64\n")
    reader = live(tree)
    assert collect_kernel(reader) == Kernel(
        "6.8.12-4-pve", "#1 SMP PREEMPT_DYNAMIC PMX 6.8.12-4", "x86_64"
    )
    assert reader.gaps == ()


def test_the_kernel_of_a_capture_that_holds_only_version_and_cpuinfo(tree: SysfsTree) -> None:
    tree.write("/proc/version", VERSION + "\n")
    tree.write("/proc/cpuinfo", INTEL)
    reader = captured(tree)
    assert collect_kernel(reader) == Kernel("6.1.0-56-amd64", BUILD, "x86_64")
    assert reader.gaps == ()


def test_an_unknown_kernel_is_not_the_collecting_machines(tree: SysfsTree) -> None:
    reader = captured(tree)
    assert collect_kernel(reader) == Kernel(None, None, None)
    assert [gap.path for gap in reader.gaps] == ["/proc/version", "/proc/cpuinfo"]


@pytest.mark.parametrize(
    ("text", "release", "build"),
    [
        (VERSION, "6.1.0-56-amd64", BUILD),
        ("Linux version 6.18.44 (a@b) (gcc) #7 SMP @0", "6.18.44", "#7 SMP @0"),
        ("Linux version 5.3.0 (t@t) (gcc version", "5.3.0", None),
        ("Linux version 5.3.0", "5.3.0", None),
        ("something else", None, None),
        ("", None, None),
    ],
)
def test_version_lines(text: str, release: str | None, build: str | None) -> None:
    assert parse_version_line(text) == Kernel(release, build, None)


def test_boot_id_cmdline_and_uptime(tree: SysfsTree) -> None:
    tree.write("/proc/sys/kernel/random/boot_id", "dd775f14-127d-4d3f-af0c-3251203de169\n")
    tree.write("/proc/cmdline", "root=/dev/sda1 intel_iommu=on iommu=pt\n")
    tree.write("/proc/uptime", "12345.67 54321.00\n")
    reader = live(tree)
    assert collect_boot_id(reader) == "dd775f14-127d-4d3f-af0c-3251203de169"
    assert collect_cmdline(reader) == "root=/dev/sda1 intel_iommu=on iommu=pt"
    assert collect_uptime(reader) == 12345.67
    tree.write("/proc/cmdline", "\n")
    assert collect_cmdline(live(tree)) == ""


@pytest.mark.parametrize("text", ["", "nan 1", "inf inf", "soon", "-3.0 1"])
def test_an_uptime_that_is_no_number_is_a_gap(tree: SysfsTree, text: str) -> None:
    tree.write("/proc/uptime", text)
    reader = live(tree)
    assert collect_uptime(reader) is None
    assert [gap.path for gap in reader.gaps] == ["/proc/uptime"]


# --- processor -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cpu", "machine"),
    [
        (
            INTEL,
            Cpu("GenuineIntel", "Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz", ("vmx",)),
            "x86_64",
        ),
        (ARM, Cpu("implementer 0x41", "part 0xd0c", ()), "aarch64"),
        (POWER, Cpu("", "POWER9, altivec supported", ()), None),
        (RISCV, Cpu("", "sifive,u74-mc", ()), "riscv64"),
        (
            INTEL.replace("flags", "sgalf"),
            Cpu("GenuineIntel", INTEL.split("\n")[3][13:], None),
            None,
        ),
        ("", Cpu(None, None, None), None),
    ],
)
def test_processors(text: str, cpu: Cpu, machine: str | None) -> None:
    assert parse_cpuinfo(text) == cpu
    assert machine_of(text) == machine


def test_only_flags_that_matter_are_kept() -> None:
    text = "processor: 0\nflags: fpu svm hypervisor sev sev_es sev_snp lm\n"
    assert parse_cpuinfo(text).flags == ("hypervisor", "sev_snp", "svm")


def test_an_unreadable_processor_is_unknown(tree: SysfsTree) -> None:
    assert collect_cpu(captured(tree)) == Cpu(None, None, None)


def test_the_kvm_device(tree: SysfsTree) -> None:
    assert collect_kvm_device(captured(tree)) is None  # no /dev at all
    tree.write("/dev/vfio/vfio", "")
    reader = captured(tree)
    assert collect_kvm_device(reader) is None  # somebody captured a part of /dev
    assert [gap.path for gap in reader.gaps] == ["/dev/kvm"]
    assert collect_kvm_device(live(tree)) is False
    tree.write("/dev/kvm", "")
    assert collect_kvm_device(captured(tree)) is True
    assert collect_kvm_device(live(tree)) is True


# --- modules -------------------------------------------------------------------------------------


def test_loaded_and_builtin_modules_with_their_parameters(tree: SysfsTree) -> None:
    tree.write("/proc/modules", "kvm_intel 380928 0 - Live 0x0\nnvme 57344 0 - Live 0x0\n")
    tree.write("/sys/module/kvm_intel/parameters/nested", "Y\n")
    tree.write("/sys/module/kvm_intel/parameters/ept", "Y\n")
    tree.write("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n")
    tree.write("/sys/module/vfio_pci/parameters/ids", "10de:1b80,10de:10f0\n")
    tree.write("/sys/module/mlx5_vfio_pci/refcnt", "0\n")
    tree.write("/sys/module/nvme/parameters/sgl_threshold", "32768\n")
    tree.write("/proc/sys/kernel/osrelease", "6.8.12-4-pve\n")
    builtin = "kernel/drivers/vfio/vfio.ko\nkernel/drivers/vfio/vfio_iommu_type1.ko\nkernel/x.ko\n"
    tree.write("/lib/modules/6.8.12-4-pve/modules.builtin", builtin)
    reader = live(tree)
    assert collect_modules(reader) == (
        Module("kvm_intel", (("nested", "Y"),), builtin=False),
        Module("mlx5_vfio_pci", (), builtin=False),
        Module("vfio", (), builtin=True),
        Module("vfio_iommu_type1", (("allow_unsafe_interrupts", "N"),), builtin=True),
        Module("vfio_pci", (("ids", "10de:1b80,10de:10f0"),), builtin=False),
    )
    assert reader.gaps == ()


def test_a_kernel_without_loadable_modules(tree: SysfsTree) -> None:
    tree.write("/sys/module/kvm/parameters/nested", "1\n")
    assert collect_modules(live(tree)) == (Module("kvm", (("nested", "1"),)),)


def test_a_partial_listing_is_not_a_list_of_modules(tree: SysfsTree) -> None:
    tree.write("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n")
    reader = captured(tree)
    assert collect_modules(reader) is None
    assert [gap.path for gap in reader.gaps] == ["/proc/modules"]


# --- interrupts ----------------------------------------------------------------------------------

REMAPPED = """\
            CPU0       CPU1
   0:        306          0  IR-IO-APIC   2-edge      timer
   9:          0          0  IR-IO-APIC   9-fasteoi   acpi
  24:          0          0  DMAR-MSI   0-edge      dmar0
  25:         11          0  IR-PCI-MSI 32768-edge      PCIe PME, aerdrv, pciehp
 120:          1          2  IR-PCI-MSIX-0000:01:00.0   0-edge      nvme0q0
 121:          1          2  IR-PCI-MSIX-10000:e1:00.0   1-edge      nvme1q0
 NMI:          0          0   Non-maskable interrupts
 ERR:          0
"""
GIC = """\
           CPU0       CPU1       CPU2
 11:      75193      73024      74120     GICv3  27 Level     arch_timer
 14:          0          0          0     GICv3  79 Edge      ACPI:Ged
 60:         10          0          0  ITS-PCI-MSI-0000:01:00.0   0 Edge      nvme0q0
 61:         10          0          0   ITS-MSI 524288 Edge      xhci_hcd
IPI0:       1203       1444       1232       Rescheduling interrupts
"""
OLD = """\
           CPU0
  0:         35   IO-APIC-edge      timer
 16:          0   IO-APIC-fasteoi   uhci_hcd:usb1
 40:       1000   PCI-MSI-edge      eth0
 50:          0   None  nothing
"""


@pytest.mark.parametrize(
    ("text", "chips"),
    [
        (REMAPPED, ("DMAR-MSI", "IR-IO-APIC", "IR-PCI-MSI", "IR-PCI-MSIX")),
        (GIC, ("GICv3", "ITS-MSI", "ITS-PCI-MSI")),
        (OLD, ("IO-APIC", "PCI-MSI")),
        ("", ()),
        ("CPU0\n 1: 2\n 3:\n", ()),
    ],
)
def test_chips(text: str, chips: tuple[str, ...]) -> None:
    assert parse_chips(text) == chips


def test_chips_of_many_processors(tree: SysfsTree) -> None:
    header = "".join(f"{f'CPU{i}':>11}" for i in range(512))
    row = " 24:" + "          7" * 512 + "  IR-PCI-MSI-0000:00:1f.0    0-edge      ahci\n"
    tree.write("/proc/interrupts", header + "\n" + row * 300)  # above the default read size
    tree.write("/proc/interrupts", tree.at("/proc/interrupts").read_text() + row.replace("IR-", ""))
    assert collect_interrupt_chips(live(tree)) == ("IR-PCI-MSI", "PCI-MSI")


# --- memory --------------------------------------------------------------------------------------

MEMINFO = """\
MemTotal:       24684096 kB
MemAvailable:   20000000 kB
HugePages_Total:       4
HugePages_Free:        3
Hugepagesize:    1048576 kB
Odd:  many
"""


def test_memory(tree: SysfsTree) -> None:
    tree.write("/proc/meminfo", MEMINFO)
    assert collect_memory_total(live(tree)) == 24684096 * 1024
    assert collect_memory(live(tree)) == Memory(20000000 * 1024, 4, 3, 1 << 30)


def test_a_missing_line_is_not_zero(tree: SysfsTree) -> None:
    tree.write("/proc/meminfo", "MemFree: 5 kB\n")
    assert collect_memory_total(live(tree)) is None
    assert collect_memory(live(tree)) == Memory(None, None, None, None)
    assert collect_memory(captured(SysfsTree(tree.top / "empty"))) is None


# --- keyboards -----------------------------------------------------------------------------------

INPUT = """\
I: Bus=0011 Vendor=0001 Product=0001 Version=ab41
N: Name="AT Translated Set 2 keyboard"
S: Sysfs=/devices/platform/i8042/serio0/input/input3
H: Handlers=sysrq kbd event3 leds

I: Bus=0003 Vendor=046d Product=c31c Version=0110
N: Name="Logitech USB Keyboard"
S: Sysfs=/devices/pci0000:00/0000:00:1c.0/0000:03:00.0/usb1/1-2/1-2:1.0/0003:046D:C31C.0001/input/i5
H: Handlers=sysrq kbd event5 leds

I: Bus=0003 Vendor=046d Product=c077 Version=0111
N: Name="Logitech USB Optical Mouse"
S: Sysfs=/devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/0003:046D:C077.0002/input/input6
H: Handlers=mouse0 event6
"""


def test_keyboards_name_the_innermost_function(tree: SysfsTree) -> None:
    tree.write("/proc/bus/input/devices", INPUT)
    assert collect_keyboards(live(tree)) == ("0000:03:00.0",)


def test_a_host_without_an_input_layer_has_no_keyboard(tree: SysfsTree) -> None:
    assert collect_keyboards(live(tree)) == ()
    reader = captured(tree)
    assert collect_keyboards(reader) is None
    assert [gap.path for gap in reader.gaps] == ["/proc/bus/input/devices"]


# --- any text ------------------------------------------------------------------------------------


@given(st.text())
def test_no_text_makes_a_parser_raise(text: str) -> None:
    parse_version_line("Linux version " + text)
    parse_cpuinfo(text)
    machine_of(text)
    parse_chips("CPU0 CPU1\n 1: 2 3 " + text)
    parse_meminfo("MemTotal: " + text)
    parse_input_devices("H: Handlers=kbd\nS: Sysfs=" + text)
