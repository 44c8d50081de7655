"""QEMU command lines: property strings, JSON devices, and what is no QEMU."""

import pytest

from vfio_agent.vmconf.qemu_cmdline import is_qemu, parse_qemu, split_cmdline
from vfio_contract.vm import VmConfig

PLAIN = (
    "/usr/bin/qemu-system-x86_64 -name guest=a,,b,debug-threads=on -machine q35,accel=kvm "
    "-cpu host,kvm=off,hv_vendor_id=null -m size=4096,slots=2 "
    "-drive if=pflash,file=OVMF.fd -object secret,id=s,data=hunter2 "
    "-object memory-backend-file,id=m,mem-path=/dev/hugepages,size=4G "
    "-device vfio-pci,host=01:00.0,multifunction=on,x-vga=on,romfile=/a.rom,bus=rp1 "
    "-device virtio-balloon-pci,id=b "
    "-device vfio-pci,sysfsdev=/sys/bus/pci/devices/0000:02:00.1,id=n "
    "-device vfio-pci,sysfsdev=/sys/bus/mdev/devices/00000001-0000-0000-0000-000000008006"
)


def parse(text: str) -> VmConfig:
    vm = parse_qemu(text.split(), source="/proc/7/cmdline", fallback_name="pid-7")
    assert vm is not None
    return vm


def test_a_whole_command_line() -> None:
    vm = parse(PLAIN)
    assert (vm.name, vm.kind, vm.machine, vm.cpu) == ("a,b", "qemu", "q35", "host")
    assert (vm.firmware, vm.accelerated, vm.hugepages) == ("ovmf", True, -1)
    assert vm.disguises == ("kvm=off", "hv-vendor-id=null")
    assert vm.memory_bytes == vm.balloon_bytes == 4 << 30
    first, second, third = vm.devices
    assert (first.addresses, first.primary_display, first.pcie) == (("0000:01:00.0",), True, True)
    assert (first.rom_file, first.line) == (
        "/a.rom",
        PLAIN.split().index(
            "vfio-pci,host=01:00.0,multifunction=on,x-vga=on,romfile=/a.rom,bus=rp1"
        ),
    )
    assert (second.addresses, second.key) == (("0000:02:00.1",), "-device n")
    assert (third.addresses, third.mdev[-4:]) == ((), "8006")
    assert "hunter2" not in repr(vm)


def test_the_json_that_libvirt_writes() -> None:
    words = [
        "/usr/bin/qemu-system-x86_64",
        "-device",
        '{"driver":"vfio-pci","host":"0000:06:12.5","id":"hostdev0","x-vga":true,"bus":"pci.3"}',
        "-device",
        '{"driver":"vfio-pci","host":',
        "-accel",
        "kvm",
    ]
    vm = parse_qemu(words, source="/proc/7/cmdline", fallback_name="pid-7")
    assert vm is not None
    (device,) = vm.devices
    assert (device.addresses, device.primary_display) == (("0000:06:12.5",), True)
    assert vm.faults == ((4, "not a device that can be read"),)
    assert (vm.name, vm.accelerated, vm.balloon_bytes) == ("pid-7", True, 0)


@pytest.mark.parametrize(
    ("text", "accelerated"),
    [
        ("qemu-system-x86_64", False),
        ("qemu-system-x86_64 -enable-kvm", True),
        ("qemu-system-x86_64 -machine accel=tcg", False),
        ("/usr/bin/kvm -id 101", True),
        ("/usr/bin/kvm -machine accel=tcg", False),
        ("qemu-system-x86_64 --accel kvm:tcg", True),
    ],
)
def test_acceleration(text: str, accelerated: bool) -> None:
    assert parse(text).accelerated is accelerated


def test_what_is_no_qemu() -> None:
    for words in ([], ["/bin/sh", "-device", "vfio-pci,host=01:00.0"], ["qemu-img", "info"]):
        assert parse_qemu(words, source="", fallback_name="") is None
    assert is_qemu("/usr/libexec/qemu-kvm")
    assert not is_qemu("/usr/bin/qemu-nbd")
    assert split_cmdline(b"") == []
    assert split_cmdline(b"kvm\0-m\x005\0") == ["kvm", "-m", "5"]
