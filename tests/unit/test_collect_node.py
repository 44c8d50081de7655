"""What the node checks read beside devices: KVM's answer, boot loaders, initramfs, lost time."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect import collect_host
from vfio_agent.collect.boot_options import LOADER_INFO, collect_boot_options, collect_boot_path
from vfio_agent.collect.capture import capture_host
from vfio_agent.collect.contention import (
    collect_cpu_time,
    collect_disks,
    parse_cpu_time,
    parse_disks,
)
from vfio_agent.collect.cpu import collect_kvm
from vfio_agent.collect.initramfs import collect_initramfs
from vfio_agent.collect.interrupts import collect_cpu_isolation
from vfio_agent.collect.kvm import MADE, probe_kvm
from vfio_agent.collect.module_rules import collect_module_rules
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, NotCaptured, open_root
from vfio_contract.model import (
    BootOptions,
    BootPath,
    CpuIsolation,
    CpuTime,
    DiskTime,
    Initramfs,
    Intent,
    Module,
    ModuleRule,
)

KVM = (Module("kvm", ()), Module("kvm_intel", ()))
RELEASE = "6.8.12-4-pve"
IMAGE = f"/boot/initrd.img-{RELEASE}"


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path / "host")


def live(tree: SysfsTree) -> Reader:
    return Reader(LiveRoot(str(tree.top)))


def captured(tree: SysfsTree) -> Reader:
    return Reader(open_root(str(tree.top)))


# --- KVM -----------------------------------------------------------------------------------------


class AskedRoot(LiveRoot):
    """A live root of which KVM answers with this error."""

    def __init__(self, top: str, number: int) -> None:
        super().__init__(top)
        self._number = number

    def _load(self, path: str, limit: int = 1 << 20) -> bytes:
        if path == "/dev/kvm":
            raise OSError(self._number, os.strerror(self._number), path)
        return super()._load(path, limit)


def ask(reader: Reader, *, device: bool | None = True, modules: tuple[Module, ...] = KVM) -> object:
    return collect_kvm(reader, device=device, modules=modules, previous=None)


def test_kvm_makes_a_vm(tree: SysfsTree) -> None:
    tree.write("/dev/kvm", MADE)
    assert ask(live(tree)) == ""
    tree.write("/dev/kvm", "something else")
    assert ask(live(tree)) is None


def test_kvm_is_not_opened_where_that_would_load_a_module(tree: SysfsTree) -> None:
    reader = Reader(AskedRoot(str(tree.top), errno.EBUSY))
    assert ask(reader, modules=()) is None
    assert ask(reader, device=False) is None
    assert reader.gaps == ()


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EIO, errno.ENODEV, errno.EINVAL])
def test_kvm_refuses(tree: SysfsTree, number: int) -> None:
    said = ask(Reader(AskedRoot(str(tree.top), number)))
    assert said == f"KVM_CREATE_VM: {os.strerror(number)}"


def test_an_ordinary_user_may_not_ask_and_a_slow_answer_is_none(tree: SysfsTree) -> None:
    reader = Reader(AskedRoot(str(tree.top), errno.EACCES))
    assert ask(reader) is None
    assert [(g.path, g.remedy) for g in reader.gaps] == [("/dev/kvm", "sudo vfioctl check")]
    assert ask(Reader(AskedRoot(str(tree.top), errno.ETIMEDOUT))) is None


def test_what_somebody_copied_holds_no_answer(tree: SysfsTree) -> None:
    tree.write("/dev/kvm", MADE)
    assert ask(captured(tree)) is None


def test_a_device_that_is_no_kvm(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="ioctl") as caught:
        probe_kvm("/dev/null")
    assert caught.value.errno == errno.ENOTTY
    with pytest.raises(FileNotFoundError):
        probe_kvm(str(tmp_path / "kvm"))


def test_what_worked_once_in_a_boot_is_not_asked_again(tree: SysfsTree) -> None:
    tree.write("/dev/kvm", MADE)
    tree.write("/proc/sys/kernel/random/boot_id", "b-1\n")
    tree.write("/proc/modules", "kvm_intel 1 0 - Live 0x0\n")
    first = collect_host(LiveRoot(str(tree.top)))
    assert first.readings.kvm == ""
    busy = AskedRoot(str(tree.top), errno.EBUSY)
    assert collect_host(busy, previous=first).readings.kvm == ""
    tree.write("/proc/sys/kernel/random/boot_id", "b-2\n")
    again = collect_host(busy, previous=first).readings.kvm
    assert again == f"KVM_CREATE_VM: {os.strerror(errno.EBUSY)}"


@pytest.mark.parametrize("number", [0, errno.EBUSY])
def test_a_capture_keeps_the_answer_and_the_ages(
    tree: SysfsTree, tmp_path: Path, number: int
) -> None:
    tree.write("/dev/kvm", MADE)
    tree.write("/proc/modules", "kvm_intel 1 0 - Live 0x0\n")
    tree.write("/proc/sys/kernel/osrelease", RELEASE)
    write_image(tree, made=1000, changed=2000)
    root = AskedRoot(str(tree.top), number) if number else LiveRoot(str(tree.top))
    seen = capture_host(str(tmp_path / "host.tar.gz"), root=root)
    again = collect_host(open_root(str(tmp_path / "host.tar.gz")))
    for readings in (seen.readings, again.readings):
        assert bool(readings.kvm) == bool(number)
        assert readings.kvm is not None
        assert readings.initramfs == Initramfs(IMAGE, ("/etc/modprobe.d/vfio.conf",))


# --- ages ----------------------------------------------------------------------------------------


def write_image(tree: SysfsTree, *, made: int, changed: int) -> None:
    tree.write(IMAGE, "")
    os.utime(tree.at(IMAGE), (made, made))
    tree.write("/etc/modprobe.d/vfio.conf", "options vfio-pci ids=10de:2204\n")
    os.utime(tree.at("/etc/modprobe.d/vfio.conf"), (changed, changed))


RULES = (ModuleRule("initramfs", "vfio_pci", "", "/etc/initramfs-tools/modules:1"),)
INTENTS = (
    Intent("vfio-ids", "10de:2204", "modprobe.d/vfio.conf:1"),
    Intent("driverctl", "0000:01:00.0", "driverctl.d/pci-0000:01:00.0"),
    Intent("vfio-ids", "10de:2204", "kernel command line"),
)


def image_of(reader: Reader) -> Initramfs | None:
    return collect_initramfs(reader, release=RELEASE, rules=RULES, intents=INTENTS)


def test_an_initramfs_older_than_its_configuration(tree: SysfsTree) -> None:
    write_image(tree, made=1000, changed=1001)
    assert image_of(live(tree)) == Initramfs(IMAGE, ("/etc/modprobe.d/vfio.conf",))
    write_image(tree, made=1001, changed=1001)
    tree.write("/etc/initramfs-tools/modules", "vfio_pci\n")
    os.utime(tree.at("/etc/initramfs-tools/modules"), (900, 900))
    assert image_of(live(tree)) == Initramfs(IMAGE, ())


@pytest.mark.parametrize("name", [f"initramfs-{RELEASE}.img", "initramfs-linux-pve.img"])
def test_other_distributions_names(tree: SysfsTree, name: str) -> None:
    tree.write(f"/boot/{name}", "")
    assert image_of(live(tree)) == Initramfs(f"/boot/{name}", ())


def test_no_initramfs_is_known_live_and_its_age_unknown_in_a_copy(tree: SysfsTree) -> None:
    assert image_of(live(tree)) == Initramfs("", ())
    write_image(tree, made=1000, changed=2000)
    reader = captured(tree)
    assert image_of(reader) is None
    assert [g.path for g in reader.gaps] == ["/boot/initrd.img"]
    with pytest.raises(NotCaptured):
        reader.root.modified(IMAGE)
    assert collect_initramfs(live(tree), release=RELEASE, rules=None, intents=()) is None


def test_options_that_weaken_vfio_are_rules(tree: SysfsTree) -> None:
    tree.write(
        "/etc/modprobe.d/x.conf",
        "options vfio_iommu_type1 allow_unsafe_interrupts=1 disable_hugepages=1\n"
        "options vfio-pci ids=10de:2204\noptions nvme allow_unsafe_interrupts=1\n",
    )
    assert collect_module_rules(live(tree)) == (
        ModuleRule(
            "options", "vfio_iommu_type1", "allow_unsafe_interrupts=1", "/etc/modprobe.d/x.conf:1"
        ),
    )


# --- boot loader ---------------------------------------------------------------------------------

GRUB_CFG = """\
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
else
   set default="0"
fi
menuentry 'Proxmox VE' --class proxmox {
	echo	'Loading Linux ...'
	linux	/boot/vmlinuz-6.8.12-4-pve root=/dev/mapper/pve-root ro  quiet intel_iommu=on
}
	linux	/boot/vmlinuz-6.8.12-4-pve root=/dev/mapper/pve-root ro single
	linux	/boot/vmlinuz-6.5.13-6-pve root=/dev/mapper/pve-root ro quiet
"""


def test_grubs_default_entry_beside_what_was_written(tree: SysfsTree) -> None:
    tree.write("/etc/default/grub", "GRUB_CMDLINE_LINUX=quiet\n")
    written = BootOptions("grub", "/etc/default/grub:1", "quiet")
    assert collect_boot_options(live(tree)) == (written,)
    tree.write("/boot/grub/grub.cfg", GRUB_CFG)
    made = BootOptions(
        "grub.cfg", "/boot/grub/grub.cfg:8", "root=/dev/mapper/pve-root ro quiet intel_iommu=on"
    )
    assert collect_boot_options(live(tree)) == (written, made)
    # what a saved default means is GRUB's own knowledge
    tree.write("/boot/grub/grub.cfg", GRUB_CFG.replace('"0"', '"${saved_entry}"'))
    reader = live(tree)
    assert collect_boot_options(reader) == (written,)
    assert [g.path for g in reader.gaps] == ["/boot/grub/grub.cfg"]


def test_a_capture_keeps_no_password_of_grub(tree: SysfsTree, tmp_path: Path) -> None:
    tree.write("/etc/default/grub", "GRUB_CMDLINE_LINUX=quiet\n")
    locked = 'set superusers="root"\npassword_pbkdf2 root grub.pbkdf2.sha512.10000.AB\n'
    tree.write("/boot/grub/grub.cfg", locked + GRUB_CFG)
    seen = capture_host(str(tmp_path / "host.tar.gz"), root=LiveRoot(str(tree.top)))
    data = gzip.decompress((tmp_path / "host.tar.gz").read_bytes())
    assert b"pbkdf2" not in data
    again = collect_host(open_root(str(tmp_path / "host.tar.gz")))
    assert again.facts.boot_options == seen.facts.boot_options
    assert len(again.facts.boot_options or ()) == 2


def test_loader_entries_leave_grub_cfg_without_a_kernel(tree: SysfsTree) -> None:
    tree.write("/etc/default/grub", "GRUB_CMDLINE_LINUX=quiet\n")
    tree.write("/boot/grub2/grub.cfg", 'set default="0"\nblscfg\n')
    assert len(collect_boot_options(live(tree)) or ()) == 1


def test_loader_conf_chooses_the_entry(tree: SysfsTree) -> None:
    for version in ("6.8", "6.10"):
        tree.write(f"/boot/loader/entries/id-{version}.conf", f"options v={version}\n")
    tree.write("/boot/loader/loader.conf", "timeout 3\ndefault id-6.8*\n")
    (row,) = collect_boot_options(live(tree)) or ()
    assert row.options == "v=6.8"
    tree.write("/boot/loader/loader.conf", "default @saved\n")
    (row,) = collect_boot_options(live(tree)) or ()
    assert row.options == "v=6.10"


BOTH = (BootOptions("grub", "g:1", ""), BootOptions("systemd-boot", "k:1", ""))


def test_the_loader_that_starts_the_host(tree: SysfsTree) -> None:
    assert collect_boot_path(live(tree), BOTH, "ro") == BootPath(
        efi=False, loader="", proxmox_boot=False
    )
    tree.mkdir("/sys/firmware/efi")
    name = "systemd-boot 252.5"
    tree.write(LOADER_INFO, b"\6\0\0\0" + f"{name}\0".encode("utf-16-le"))
    tree.write("/etc/kernel/proxmox-boot-uuids", "AAAA-BBBB\n")
    assert collect_boot_path(live(tree), BOTH, "ro") == BootPath(
        efi=True, loader=name, proxmox_boot=True
    )
    assert collect_boot_path(captured(SysfsTree(tree.top / "x")), BOTH, None) == BootPath(
        efi=None, loader=None, proxmox_boot=None
    )


def test_the_firmware_is_asked_only_where_nothing_else_tells(tree: SysfsTree) -> None:
    for options, cmdline in ((BOTH[:1], "ro"), (BOTH, "BOOT_IMAGE=/x ro"), (None, None)):
        assert collect_boot_path(live(tree), options, cmdline) is None
    tree.write("/etc/kernel/proxmox-boot-uuids", "AAAA-BBBB\n")
    assert collect_boot_path(live(tree), BOTH[:1], "ro") == BootPath(
        efi=None, loader=None, proxmox_boot=True
    )


# --- lost time -----------------------------------------------------------------------------------


def test_stolen_time(tree: SysfsTree) -> None:
    tree.write("/proc/stat", "cpu  10 0 20 900 5 0 1 64 7 0\ncpu0 1 2\nintr 5 6\n")
    assert collect_cpu_time(live(tree)) == CpuTime(total=1000, steal=64)
    tree.write("/proc/stat", "cpu 1 2 3\n")
    reader = live(tree)
    assert collect_cpu_time(reader) is None
    assert collect_cpu_time(captured(SysfsTree(tree.top / "x"))) is None
    assert reader.gaps[0].path == "/proc/stat"


def test_disks(tree: SysfsTree) -> None:
    tree.write(
        "/proc/diskstats",
        "   8       0 sda 100 1 2 300 400 5 6 700 0 8 9 1 2 3 4 50 60\n"
        "   8       1 sda1 1 1 1 1 1 1 1 1 1 1 1\n"
        " 259       0 nvme0n1 1 0 0 2 3 0 0 4 0 0 0\n"
        " 253       0 dm-0 1 1 1 1 1 1 1 1 1 1 1\n"
        "   8      16 sdb x\n",
    )
    assert collect_disks(live(tree)) == (
        DiskTime("nvme0n1", 1, 2, 3, 4, None, None),
        DiskTime("sda", 100, 300, 400, 700, 50, 60),
    )
    assert collect_disks(captured(SysfsTree(tree.top / "x"))) is None


@given(st.text(max_size=300))
def test_no_counter_text_raises(text: str) -> None:
    parse_cpu_time(f"cpu {text}")
    parse_disks(f"8 0 sda {text}")


# --- isolation -----------------------------------------------------------------------------------


def test_isolated_processors_and_irqbalance(tree: SysfsTree) -> None:
    assert collect_cpu_isolation(live(tree)) == CpuIsolation("", "", irqbalance=False)
    tree.write("/sys/devices/system/cpu/isolated", "2-7\n")
    tree.write("/sys/devices/system/cpu/nohz_full", "(null)\n")
    tree.write("/sys/fs/cgroup/system.slice/irqbalance.service/cgroup.procs", "812\n")
    assert collect_cpu_isolation(live(tree)) == CpuIsolation("2-7", "", irqbalance=True)
    tree.write("/sys/fs/cgroup/system.slice/irqbalance.service/cgroup.procs", "")
    assert collect_cpu_isolation(live(tree)).irqbalance is False
    tree.write("/run/irqbalance/irqbalance812.sock", "")
    assert collect_cpu_isolation(live(tree)).irqbalance is True
    reader = captured(SysfsTree(tree.top / "x"))
    assert collect_cpu_isolation(reader) == CpuIsolation(None, None, irqbalance=None)
    assert "pgrep -a irqbalance" in [g.remedy for g in reader.gaps]
