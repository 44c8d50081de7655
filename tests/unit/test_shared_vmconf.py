"""Every VM configuration of the shared captures: nothing crashes, devices are upstream's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from vfio_agent.vmconf.libvirt import parse_libvirt
from vfio_agent.vmconf.mapping import parse_mappings
from vfio_agent.vmconf.proxmox import parse_proxmox
from vfio_agent.vmconf.qemu_cmdline import parse_qemu
from vfio_agent.vmconf.secrets import redact_cmdline, redact_conf, redact_xml
from vfio_contract.vm import VmConfig, VmDevice

pytestmark = pytest.mark.shared

UPSTREAM = "captures/vmconf/proxmox/upstream-tests"


def read_conf(path: Path) -> VmConfig:
    data = path.read_bytes()
    vm = parse_proxmox(data.decode(), name="8006", source=str(path))
    assert parse_proxmox(redact_conf(data).decode(), name="8006", source=str(path)) == vm
    return vm


def read_command(path: Path) -> VmConfig:
    words = shlex.split(path.read_text().replace("\\\n", " "))
    vm = parse_qemu(words, source=str(path), fallback_name="")
    assert vm is not None
    redacted = redact_cmdline("\0".join(words).encode()).decode().split("\0")
    assert parse_qemu(redacted, source=str(path), fallback_name="") == vm
    return vm


def is_same(wanted: VmDevice, started: VmDevice) -> bool:
    """Upstream's command names one function where the configuration may name a slot or mapping."""
    if started.mdev:
        return bool(wanted.mdev)
    (address,) = started.addresses
    if wanted.mapping:
        return not wanted.mdev
    return any(address == w or address.startswith(f"{w}.") for w in wanted.addresses)


def test_every_proxmox_configuration_starts_what_upstream_starts(shared: Path) -> None:
    commands = sorted((shared / UPSTREAM).glob("*.conf.cmd"))
    assert len(commands) == 8
    for path in commands:
        vm, started = read_conf(path.with_suffix("")), read_command(path)
        assert not vm.faults
        if vm.template:
            assert not started.devices  # a template runs only to be turned into one
            continue
        keys = {d.key.removeprefix("-device ").partition(".")[0]: d for d in started.devices}
        assert sorted(keys) == sorted(d.key for d in vm.devices), path.name
        for device in vm.devices:
            mine = [
                d
                for d in started.devices
                if d.key.removeprefix("-device ").partition(".")[0] == device.key
            ]
            assert mine
            assert all(is_same(device, d) for d in mine), (path.name, device.key)
            assert all(d.pcie == device.pcie for d in mine), (path.name, device.key)
            assert all(d.rom_bar == device.rom_bar for d in mine)
        assert ("q35" in vm.machine) == ("q35" in started.machine)
        assert (vm.firmware, vm.memory_bytes) == (started.firmware, started.memory_bytes)


def test_forms_that_upstream_tests(shared: Path) -> None:
    vm = read_conf(shared / UPSTREAM / "q35-linux-hostpci-x-pci-overrides.conf")
    assert ("vendor-id", "0x1234") in vm.devices[0].options
    vm = read_conf(shared / UPSTREAM / "q35-linux-hostpci-driver-keep.conf")
    assert [d.managed for d in vm.devices] == [False, True, True, True, True, True]
    vm = read_conf(shared / UPSTREAM / "q35-linux-hostpci-multifunction.conf")
    assert [d.addresses for d in vm.devices] == [("0000:f0:43",), ("1234:f0:43",)]


def test_a_real_host(shared: Path) -> None:
    vm = read_conf(shared / "captures/vmconf/proxmox/proxintosh/etc/pve/qemu-server/100.conf")
    assert (vm.title, vm.cpu, vm.firmware, vm.machine) == ("catalina", "host", "ovmf", "q35")
    assert len(vm.devices) == 8
    first = vm.devices[0]
    assert (first.line, first.addresses) == (8, ("0000:2d:00",))
    assert first.primary_display


def test_every_domain(shared: Path) -> None:
    paths = sorted((shared / "captures/vmconf/libvirt").glob("*.xml"))
    assert len(paths) > 90
    for path in paths:
        data = path.read_bytes()
        vm = parse_libvirt(data, source=str(path), autostart=None)
        assert isinstance(vm, VmConfig), (path.name, vm)
        text = data.decode()
        kinds = re.findall(r"<hostdev [^>]*type='(\w+)'", text)
        assert len(vm.devices) == sum(kind in ("pci", "mdev") for kind in kinds), path.name
        lines = text.splitlines()
        assert all("<hostdev " in lines[d.line - 1] for d in vm.devices), path.name
        named = [d for d in vm.devices if d.addresses or d.mdev]
        assert len(named) == len(vm.devices) or "invalid" in path.name, path.name
        assert vm.memory_bytes
        assert f"machine='{vm.machine}'" in text
        assert parse_libvirt(redact_xml(data), source=str(path), autostart=None) == vm


def test_domains_in_detail(shared: Path) -> None:
    folder = shared / "captures/vmconf/libvirt"
    data = (folder / "hostdev-pci-multifunction.x86_64-latest.xml").read_bytes()
    vm = parse_libvirt(data, source="a.xml", autostart=None)
    assert isinstance(vm, VmConfig)
    assert [a for d in vm.devices for a in d.addresses] == [
        "0005:90:01.0",
        "0001:01:00.1",
        "0001:01:00.0",
        "0005:90:01.2",
        "0005:90:01.3",
        "0000:06:12.1",
        "0000:06:12.2",
    ]
    assert all(d.managed for d in vm.devices)
    data = (folder / "hostdev-vfio-multidomain.xml").read_bytes()
    vm = parse_libvirt(data, source="a.xml", autostart=None)
    assert isinstance(vm, VmConfig)
    assert vm.devices[0].addresses == ("0021:de:1f.1",)


def test_no_file_there_crashes_any_parser(shared: Path) -> None:
    files = [p for p in (shared / "captures/vmconf").rglob("*") if p.is_file()]
    assert len(files) == 129
    for path in files:
        data = path.read_bytes()
        text = data.decode("utf-8", "backslashreplace")
        parse_proxmox(text, name="1", source="x")
        parse_mappings(text, source="x")
        parse_qemu(text.split(), source="x", fallback_name="x")
        found = parse_libvirt(data, source="x", autostart=None)
        assert isinstance(found, VmConfig) == ("<domain " in text)
