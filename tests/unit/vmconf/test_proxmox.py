"""Proxmox configurations and mappings: every form of hostpciN, sections, unknown keys, secrets."""

import pytest

from vfio_agent.vmconf.mapping import parse_mappings
from vfio_agent.vmconf.proxmox import parse_hostpci, parse_proxmox
from vfio_contract.vm import MappingEntry, VmConfig, VmDevice, entries_for

CONF = """\
#notes with a password: hunter2
bios: ovmf
cipassword: $5$very$secret
cpu: host,hidden=1,hv-vendor-id=proxmox-not
hostpci0: 0000:01:00,pcie=1,x-vga=1,romfile=gpu.rom
hostpci1: 02:00.0;02:00.1
machine: type=q35,viommu=intel
memory: 16384
balloon: 4096
hugepages: 1024
name: train-9
onboot: 1
brandnew-option: kept
this is no setting

[PENDING]
hostpci2: 0a:00.0
[before-upgrade]
hostpci0: 03:00.0
machine: pc
"""


def parse(text: str) -> VmConfig:
    return parse_proxmox(text, name="101", source="/etc/pve/qemu-server/101.conf")


def test_a_whole_file() -> None:
    vm = parse(CONF)
    assert (vm.name, vm.title, vm.kind, vm.autostart) == ("101", "train-9", "proxmox", True)
    assert (vm.machine, vm.firmware, vm.cpu) == ("q35", "ovmf", "host")
    assert vm.disguises == ("hidden=1", "hv-vendor-id=proxmox-not")
    assert (vm.memory_bytes, vm.balloon_bytes) == (16 << 30, 4 << 30)
    assert vm.hugepages == 1 << 30
    assert [(d.key, d.line, d.addresses) for d in vm.devices] == [
        ("hostpci0", 5, ("0000:01:00",)),
        ("hostpci1", 6, ("0000:02:00.0", "0000:02:00.1")),
        ("hostpci2", 17, ("0000:0a:00.0",)),
    ]
    first, second, _ = vm.devices
    assert (first.pcie, first.primary_display, first.rom_file) == (True, True, "gpu.rom")
    assert (second.pcie, second.primary_display, second.managed) == (False, False, True)
    assert vm.line_of("machine") == 7
    assert vm.faults == ((14, "not a setting"),)


def test_snapshots_are_not_what_starts_next() -> None:
    assert all(d.addresses[0] != "0000:03:00.0" for d in parse(CONF).devices)
    assert parse("[special:cloudinit]\nrubbish\n[old]\nrubbish\n").faults == ()


def test_pending_changes_are_made_before_the_next_start() -> None:
    text = (
        "hostpci0: 01:00\nhostpci1: 02:00.0\nhostpci2: 03:00.0\nonboot: 1\nmachine: pc\n"
        "[pending]\ndelete: hostpci0,!onboot\nhostpci1: 0a:00.0\nnot one\n"
        "[old]\nhostpci3: 04:00.0\ndelete: hostpci2\n"
    )
    vm = parse(text)
    assert [(d.key, d.line, d.addresses) for d in vm.devices] == [
        ("hostpci2", 3, ("0000:03:00.0",)),
        ("hostpci1", 8, ("0000:0a:00.0",)),
    ]
    assert (vm.autostart, vm.machine, vm.line_of("machine")) == (False, "pc", 5)
    assert vm.faults == ((9, "not a setting"),)
    # what is deleted and set is set
    both = parse("hostpci0: 01:00.0\n[PENDING]\ndelete: hostpci0\nhostpci0: 0a:00.0\n")
    assert [(d.line, d.addresses) for d in both.devices] == [(4, ("0000:0a:00.0",))]


def test_unknown_keys_are_kept_and_secrets_are_not() -> None:
    vm = parse(CONF)
    settings = {s.key: s.value for s in vm.settings}
    assert settings["brandnew-option"] == "kept"
    assert settings["cipassword"] == "(redacted)"
    assert "secret" not in repr(vm)
    assert "hunter2" not in repr(vm)
    vm = parse("args: -object secret,id=a,data=hunter2 -vnc :1,password=hunter2 -cpu host")
    assert "hunter2" not in repr(vm)
    assert vm.settings[0].value == "-object (redacted) -vnc (redacted) -cpu host"


def hostpci(value: str) -> tuple[VmDevice, list[tuple[int, str]]]:
    faults: list[tuple[int, str]] = []
    return parse_hostpci(value, key="hostpci0", line=3, faults=faults), faults


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        ("01:00", ("0000:01:00",)),
        ("01:00.1", ("0000:01:00.1",)),
        ("10000:E1:00.0", ("10000:e1:00.0",)),
        ("host=01:00.0,pcie=1", ("0000:01:00.0",)),
        ("pcie=1,host=01:00.0", ("0000:01:00.0",)),
        ("01:00.0;0000:01:00.1,rombar=0", ("0000:01:00.0", "0000:01:00.1")),
        ("f0:43", ("0000:f0:43",)),
    ],
)
def test_forms_of_an_address(value: str, addresses: tuple[str, ...]) -> None:
    device, faults = hostpci(value)
    assert device.addresses == addresses
    assert not faults


def test_options_known_and_unknown_keep_their_order() -> None:
    device, _ = hostpci("mapping=gpu,mdev=nvidia-63,rombar=0,driver=keep,future-option=7")
    assert (device.mapping, device.mdev, device.rom_bar) == ("gpu", "nvidia-63", False)
    assert device.managed is False
    assert device.options[-1] == ("future-option", "7")
    assert [key for key, _ in device.options][:2] == ["mapping", "mdev"]


@pytest.mark.parametrize("value", ["", "pcie=1", "01:00.0;rubbish", "zz:00.0", "host="])
def test_what_is_wrong_with_an_entry_is_said_with_its_line(value: str) -> None:
    _, faults = hostpci(value)
    assert [line for line, _ in faults] == [3] * len(faults)
    assert faults


def test_the_last_of_a_repeated_key_counts() -> None:
    vm = parse("hostpci0: 01:00.0\nhostpci0: 02:00.0\nmachine: pc\nmachine: q35\n")
    assert [(d.line, d.addresses) for d in vm.devices] == [(2, ("0000:02:00.0",))]
    assert vm.machine == "q35"


def test_what_args_adds_counts_too() -> None:
    vm = parse(
        "cpu: kvm64\nargs: -cpu host,kvm=off -device vfio-pci,host=05:00.0,x-vga=on,bus=pcie.0\n"
    )
    (device,) = vm.devices
    assert (device.addresses, device.line, device.managed) == (("0000:05:00.0",), 2, False)
    assert (vm.cpu, vm.disguises) == ("host", ("kvm=off",))


def test_defaults() -> None:
    vm = parse("")
    assert (vm.machine, vm.firmware, vm.cpu, vm.accelerated) == ("", "", "", True)
    assert vm.memory_bytes == vm.balloon_bytes == 512 << 20
    assert (vm.autostart, vm.template, vm.devices) == (False, False, ())
    assert parse("kvm: 0").accelerated is False
    assert parse("template: 1").template is True
    assert parse("balloon: 0").balloon_bytes == 0
    assert parse("memory: current=2048").memory_bytes == 2 << 30
    assert parse("memory: lots").memory_bytes is None


MAPPINGS = """\
gpu
\tdescription a card
\tmap id=10DE:2204,iommugroup=12,node=pve1,path=0000:01:00.0;0000:01:00.1,subsystem-id=1458:4043
\tmap id=10de:2204,iommugroup=14,node=pve2,path=0000:02:00
\tlive-migration-capable 1
\tfuture thing

pci: vgpu
\tmap id=10de:2204,node=pve1,path=nowhere
\tmdev 1
"""


def test_mappings() -> None:
    gpu, vgpu = parse_mappings(MAPPINGS, source="pci.cfg")
    assert (gpu.name, gpu.line, gpu.live_migration, gpu.mediated) == ("gpu", 1, True, False)
    assert gpu.entries[0] == MappingEntry(
        node="pve1",
        addresses=("0000:01:00.0", "0000:01:00.1"),
        ids="10de:2204",
        subsystem_ids="1458:4043",
        group=12,
        line=3,
    )
    assert entries_for(gpu, "pve2.example.org") == (gpu.entries[1],)
    assert gpu.entries[1].addresses == ("0000:02:00",)
    assert (vgpu.name, vgpu.mediated, vgpu.entries[0].addresses) == ("vgpu", True, ())
    assert vgpu.entries[0].group == -1
    assert vgpu.faults == ((9, "not a PCI address: 'nowhere'"),)
    assert parse_mappings("", source="pci.cfg") == ()


def test_quotes_in_args_are_the_shell_s() -> None:
    text = "args: -cpu 'host,kvm=off,hv_vendor_id=proxmox' -device vfio-pci,host=41:00.0\n"
    vm = parse_proxmox(text, name="101", source="101.conf")
    assert vm.disguises == ("kvm=off", "hv-vendor-id=proxmox")
    assert [d.addresses for d in vm.devices] == [("0000:41:00.0",)]
    open_quote = parse_proxmox("args: -cpu 'host,kvm=off\n", name="101", source="101.conf")
    assert open_quote.disguises == ("kvm=off",)
