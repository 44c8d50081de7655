"""Boot loader, modules, VFs, pressure, huge pages, framebuffers and holders from their files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.address_widths import collect_address_widths
from vfio_agent.collect.boot_options import collect_boot_options
from vfio_agent.collect.framebuffers import collect_framebuffers
from vfio_agent.collect.holders import collect_holders
from vfio_agent.collect.hugepages import collect_hugepages
from vfio_agent.collect.interrupts import collect_device_interrupts, parse_device_interrupts
from vfio_agent.collect.module_rules import collect_module_rules
from vfio_agent.collect.pressure import collect_pressure, parse_pressure
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, open_root
from vfio_agent.collect.sriov_rules import collect_sriov_rules
from vfio_contract.model import (
    AddressWidths,
    BootOptions,
    ConfigLine,
    DeviceInterrupt,
    HugePages,
    ModuleRule,
    Pressure,
)


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path)


def live(tree: SysfsTree) -> Reader:
    return Reader(LiveRoot(str(tree.top)))


def captured(tree: SysfsTree) -> Reader:
    return Reader(open_root(str(tree.top)))


# --- boot loader ---------------------------------------------------------------------------------


def test_grub_by_line_with_its_drop_ins(tree: SysfsTree) -> None:
    tree.write(
        "/etc/default/grub",
        '# a comment\nGRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX=""\n\n'
        "GRUB_CMDLINE_LINUX_DEFAULT='quiet  intel_iommu=on'  # why\n",
    )
    tree.write(
        "/etc/default/grub.d/pve.cfg",
        'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT iommu=pt"\n',
    )
    assert collect_boot_options(live(tree)) == (
        BootOptions("grub", "/etc/default/grub:3", ""),
        BootOptions("grub", "/etc/default/grub.d/pve.cfg:1", "quiet intel_iommu=on iommu=pt"),
    )


def test_a_value_that_only_a_shell_can_tell_is_a_gap(tree: SysfsTree) -> None:
    tree.write(
        "/etc/default/grub", 'GRUB_CMDLINE_LINUX="$(cat /x)"\nGRUB_CMDLINE_LINUX_DEFAULT="\n'
    )
    reader = live(tree)
    assert collect_boot_options(reader) == ()
    assert len(reader.gaps) == 2


def test_systemd_boot_and_loader_entries(tree: SysfsTree) -> None:
    tree.write("/etc/kernel/cmdline", "root=ZFS=rpool/ROOT/pve-1 intel_iommu=on\n")
    for version, options in (("6.9.1", "old"), ("6.10.2", "iommu=pt"), ("9.9-rescue", "x")):
        text = f"title Linux\noptions root=/dev/sda2\noptions {options}\n"
        tree.write(f"/boot/loader/entries/id-{version}.conf", text)
    assert collect_boot_options(live(tree)) == (
        BootOptions(
            "systemd-boot", "/etc/kernel/cmdline:1", "root=ZFS=rpool/ROOT/pve-1 intel_iommu=on"
        ),
        BootOptions("bls", "/boot/loader/entries/id-6.10.2.conf:2", "root=/dev/sda2 iommu=pt"),
    )


def test_no_boot_loader_is_known_live_and_unknown_in_a_capture(tree: SysfsTree) -> None:
    assert collect_boot_options(live(tree)) == ()
    reader = captured(tree)
    assert collect_boot_options(reader) is None
    assert "cat /etc/default/grub" in [gap.remedy for gap in reader.gaps]


@given(st.text(max_size=300))
def test_no_grub_file_raises(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    tree = SysfsTree(tmp_path_factory.mktemp("grub"))
    content = f"GRUB_CMDLINE_LINUX={text}\n".encode("utf-8", "surrogatepass")
    tree.write("/etc/default/grub", content)
    collect_boot_options(live(tree))


# --- modules -------------------------------------------------------------------------------------


def test_rules_about_vfio(tree: SysfsTree) -> None:
    tree.write(
        "/etc/modprobe.d/vfio.conf",
        "options vfio-pci ids=10de:2204\nsoftdep nouveau pre: vfio-pci post: x\n"
        "softdep snd pre: y\nblacklist vfio-pci\ninstall vfio /bin/false\nblacklist nouveau\n"
        "blacklist iTCO_wdt\nblacklist nvidiafb\ninstall snd /sbin/modprobe -i snd\n",
    )
    tree.write("/etc/modules", "# at boot\nvfio_pci ids=1\nloop\n")
    tree.write("/etc/modules-load.d/x.conf", "vfio\n")
    tree.write("/etc/initramfs-tools/modules", "vfio-pci\n")
    tree.write("/etc/dracut.conf.d/v.conf", 'force_drivers+=" vfio_pci vfio "\n')
    tree.write("/etc/mkinitcpio.conf", "MODULES=(vfio_pci ext4)\n")
    assert collect_module_rules(live(tree)) == (
        ModuleRule("blacklist", "nouveau", "", "/etc/modprobe.d/vfio.conf:6"),
        ModuleRule("blacklist", "vfio_pci", "", "/etc/modprobe.d/vfio.conf:4"),
        ModuleRule("initramfs", "vfio", "", "/etc/dracut.conf.d/v.conf:1"),
        ModuleRule("initramfs", "vfio_pci", "", "/etc/dracut.conf.d/v.conf:1"),
        ModuleRule("initramfs", "vfio_pci", "", "/etc/initramfs-tools/modules:1"),
        ModuleRule("initramfs", "vfio_pci", "", "/etc/mkinitcpio.conf:1"),
        ModuleRule("install", "vfio", "/bin/false", "/etc/modprobe.d/vfio.conf:5"),
        ModuleRule("load", "vfio", "", "/etc/modules-load.d/x.conf:1"),
        ModuleRule("load", "vfio_pci", "", "/etc/modules:2"),
        ModuleRule("softdep", "nouveau", "vfio_pci", "/etc/modprobe.d/vfio.conf:2"),
    )
    assert collect_module_rules(captured(SysfsTree(tree.top / "empty"))) is None


# --- SR-IOV --------------------------------------------------------------------------------------


def test_rules_that_make_vfs_and_no_other_line(tree: SysfsTree) -> None:
    tree.write("/etc/udev/rules.d/70-vf.rules", '# x\nATTR{sriov_numvfs}="4"\n')
    tree.write("/etc/rc.local", "PASSWORD=secret\necho 2 > /sys/x/sriov_numvfs\n")
    tree.write("/etc/systemd/system/sriov-nic.service", "[Service]\nExecStart=x sriov_numvfs\n")
    tree.write("/etc/systemd/system/other.service", "Environment=PASSWORD=secret\n")
    assert collect_sriov_rules(live(tree)) == (
        ConfigLine("/etc/udev/rules.d/70-vf.rules:2", 'ATTR{sriov_numvfs}="4"'),
        ConfigLine("/etc/systemd/system/sriov-nic.service:2", "ExecStart=x sriov_numvfs"),
        ConfigLine("/etc/rc.local:2", "echo 2 > /sys/x/sriov_numvfs"),
    )
    assert collect_sriov_rules(captured(SysfsTree(tree.top / "empty"))) is None


@pytest.mark.parametrize(
    ("cap", "bits"), [("d2008c40660462\n", 39), ("19ed008c40780c66\n", 57), ("8d2078c106f0466", 48)]
)
def test_the_width_of_an_iommu(tree: SysfsTree, cap: str, bits: int) -> None:
    tree.iommu()
    tree.write("/sys/devices/virtual/iommu/dmar0/intel-iommu/cap", cap)
    tree.write(
        "/proc/cpuinfo", "flags\t: vmx\naddress sizes\t: 46 bits physical, 48 bits virtual\n"
    )
    found = collect_address_widths(live(tree), ("dmar0", "ivhd0"))
    assert found == AddressWidths(46, (("dmar0", bits),))


def test_a_width_that_was_not_read_is_not_known(tree: SysfsTree) -> None:
    reader = live(tree)
    assert collect_address_widths(reader, ("dmar0",)) == AddressWidths(None, None)
    assert "/sys/class/iommu/dmar0/intel-iommu/cap" in {gap.path for gap in reader.gaps}
    tree.iommu()
    tree.write("/sys/devices/virtual/iommu/dmar0/intel-iommu/cap", "nonsense")
    assert collect_address_widths(live(tree), ("dmar0",)).iommu is None
    assert collect_address_widths(live(tree), None).iommu is None
    assert collect_address_widths(live(tree), ("ivhd0",)).iommu == ()


NETPLAN = """network:
  # virtual-function-count: 9
  wifis:
    wlan0:
      access-points: {home: {password: secret}}
  ethernets:
    eno1:
      virtual-function-count: 16
      link: x
    eno2:
      dhcp4: true
  virtual-function-count: 3
"""


def test_network_configurations_give_vf_counts_and_nothing_else(tree: SysfsTree) -> None:
    tree.mkdir("/etc/udev/rules.d")
    tree.write("/etc/netplan/01.yaml", NETPLAN)
    tree.write(
        "/etc/NetworkManager/system-connections/a.nmconnection",
        "[connection]\ninterface-name=ens1\n[wifi-security]\npsk=secret\n[sriov]\ntotal-vfs=4\n",
    )
    tree.write(
        "/etc/systemd/network/10-vf.link",
        "[Match]\nPath=pci-0000:03:00.0\n[Link]\nSR-IOVVirtualFunctions=8\n",
    )
    tree.write(
        "/etc/network/interfaces",
        "auto lo\niface eth3 inet manual\n"
        "    pre-up echo 4 > /sys/class/net/$IFACE/device/sriov_numvfs\n",
    )
    tree.write("/etc/network/interfaces.d/vf", "up echo 2 > /sys/class/net/e/device/sriov_numvfs\n")
    found = [(rule.source, rule.text) for rule in collect_sriov_rules(live(tree)) or ()]
    assert found == [
        ("/etc/systemd/network/10-vf.link:4", "pci-0000:03:00.0: SR-IOVVirtualFunctions=8"),
        (
            "/etc/network/interfaces.d/vf:1",
            "up echo 2 > /sys/class/net/e/device/sriov_numvfs",
        ),
        ("/etc/netplan/01.yaml:8", "eno1: virtual-function-count: 16"),
        ("/etc/netplan/01.yaml:12", "network: virtual-function-count: 3"),
        ("/etc/NetworkManager/system-connections/a.nmconnection:6", "ens1: total-vfs=4"),
        (
            "/etc/network/interfaces:3",
            "eth3: pre-up echo 4 > /sys/class/net/$IFACE/device/sriov_numvfs",
        ),
    ]


# --- readings ------------------------------------------------------------------------------------


def test_pressure(tree: SysfsTree) -> None:
    some = "some avg10=1.00 avg60=2.50 avg300=3.00 total=99\n"
    full = "full avg10=0.00 avg60=0.00 avg300=0.50 total=9\n"
    tree.write("/proc/pressure/cpu", some)
    tree.write("/proc/pressure/io", some + full)
    assert collect_pressure(live(tree)) == (
        Pressure("cpu", (1.0, 2.5, 3.0), None),
        Pressure("io", (1.0, 2.5, 3.0), (0.0, 0.0, 0.5)),
    )
    tree.write("/proc/pressure/memory", "nonsense\n")
    assert collect_pressure(live(tree)) is None
    assert collect_pressure(live(SysfsTree(tree.top / "off"))) == ()
    assert collect_pressure(captured(SysfsTree(tree.top / "off"))) is None


@given(st.text(max_size=200))
def test_no_pressure_text_raises(text: str) -> None:
    parse_pressure("cpu", text)


def test_huge_pages_by_size_and_node(tree: SysfsTree) -> None:
    for place, counts in (
        ("/sys/kernel/mm/hugepages/hugepages-1048576kB", {"nr": 8, "free": 3, "resv": 1}),
        ("/sys/devices/system/node/node1/hugepages/hugepages-1048576kB", {"nr": 8, "free": 3}),
    ):
        for name, count in counts.items():
            tree.write(f"{place}/{name}_hugepages", f"{count}\n")
    assert collect_hugepages(live(tree)) == (
        HugePages(1 << 30, -1, 8, 3, 1),
        HugePages(1 << 30, 1, 8, 3, None),
    )
    tree.write("/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "?\n")
    assert collect_hugepages(live(tree)) is None
    assert collect_hugepages(live(SysfsTree(tree.top / "none"))) == ()
    assert collect_hugepages(captured(SysfsTree(tree.top / "none"))) is None


def test_framebuffers_only_where_addresses_are_shown(tree: SysfsTree) -> None:
    tree.write("/proc/iomem", "f0000000-f1ffffff : 0000:01:00.0\n  f0000000-f07e8fff : BOOTFB\n")
    assert collect_framebuffers(live(tree)) == (ConfigLine("f0000000-f07e8fff", "BOOTFB"),)
    tree.write("/proc/iomem", "00000000-00000000 : BOOTFB\n")
    reader = live(tree)
    assert collect_framebuffers(reader) is None
    assert reader.gaps[0].remedy == "sudo vfioctl check"


def test_interrupts_of_vfio_devices(tree: SysfsTree) -> None:
    tree.write(
        "/proc/interrupts",
        "            CPU0       CPU2\n"
        "  24:          0         77  IR-PCI-MSI-0000:01:00.0 0-edge vfio-msix[0](0000:01:00.0)\n"
        "  25:          1          2  IR-PCI-MSI-0000:02:00.0 0-edge nvme0q0\n NMI: 1 1 x\n",
    )
    tree.write("/proc/irq/24/smp_affinity_list", "0-2\n")
    assert collect_device_interrupts(live(tree)) == (
        DeviceInterrupt(24, "vfio-msix[0](0000:01:00.0)", "0-2", ((2, 77),)),
    )
    assert collect_device_interrupts(captured(SysfsTree(tree.top / "none"))) is None


@given(st.text(max_size=300))
def test_no_interrupt_table_raises(text: str) -> None:
    parse_device_interrupts("  CPU0\n 1: 1 vfio-msi" + text)


def test_a_holder_with_its_vm_age_and_limits(tree: SysfsTree) -> None:
    tree.write("/dev/vfio/12", "")
    tree.hold(4212, "kvm (x) y", "/dev/vfio/12", "/dev/vfio/13 (deleted)")
    fields = " ".join(str(n) for n in range(4, 22))
    tree.write("/proc/4212/stat", f"4212 (kvm (x) y) D {fields} 6000 1 2\n")
    tree.write("/proc/4212/status", "VmLck:\t  1024 kB\nVmPin:\t     4 kB\n")
    tree.write(
        "/proc/4212/limits",
        "Limit   Soft Limit  Hard Limit  Units\nMax locked memory  65536  65536  bytes\n",
    )
    tree.write("/proc/4212/cgroup", "4:memory:/other\n0::/qemu.slice/101.scope\n")
    first, second = collect_holders(live(tree)) or ()
    assert (first.started_seconds, first.state) == (60.0, "D")
    assert (first.locked_bytes, first.memlock_bytes) == (1028 << 10, 65536)
    assert first.control_group == "/qemu.slice/101.scope"
    assert (first.stale_node, second.stale_node) == (False, True)
