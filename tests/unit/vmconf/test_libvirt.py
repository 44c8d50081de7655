"""libvirt domains: host devices with their lines, and documents that are refused."""

import pytest

from vfio_agent.vmconf.libvirt import MAX_DEPTH, guest_of, parse_libvirt
from vfio_agent.vmconf.secrets import redact_xml
from vfio_contract.vm import VmConfig, VmDisk

DOMAIN = b"""<domain type='kvm'>
  <name>web-1</name>
  <memory unit='GiB'>8</memory>
  <currentMemory unit='MiB'>4096</currentMemory>
  <memoryBacking><hugepages><page size='1' unit='G'/></hugepages></memoryBacking>
  <os firmware='efi'><type arch='x86_64' machine='pc-q35-9.0'>hvm</type></os>
  <cpu mode='host-passthrough'/>
  <features>
    <kvm><hidden state='on'/></kvm>
    <hyperv><vendor_id state='on' value='whatever'/></hyperv>
  </features>
  <devices>
    <graphics type='vnc' passwd='hunter2'/>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <driver name='vfio'/>
      <source><address domain='0x0000' bus='0x41' slot='0x00' function='0x0'/></source>
      <alias name='ua-gpu'/>
      <rom bar='on' file='/usr/share/gpu.rom'/>
      <address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'
        multifunction='on'/>
    </hostdev>
    <hostdev mode='subsystem' type='usb'><source/></hostdev>
    <hostdev mode='subsystem' type='mdev' model='vfio-pci'>
      <source><address uuid='53764d0e-85a0-42b4-af5c-2046b460b1dc'/></source>
    </hostdev>
    <interface type='hostdev' managed='no'>
      <source><address type='pci' domain='33' bus='222' slot='31' function='1'/></source>
    </interface>
    <memballoon model='virtio'/>
  </devices>
</domain>
"""


def parse(data: bytes) -> VmConfig:
    vm = parse_libvirt(data, source="/etc/libvirt/qemu/web-1.xml", autostart=True)
    assert isinstance(vm, VmConfig), vm
    return vm


def refusal(data: bytes) -> str:
    reason = parse_libvirt(data, source="x.xml", autostart=None)
    assert isinstance(reason, str)
    return reason


def test_a_whole_domain() -> None:
    vm = parse(DOMAIN)
    assert (vm.name, vm.machine, vm.firmware, vm.cpu) == (
        "web-1",
        "pc-q35-9.0",
        "ovmf",
        "host-passthrough",
    )
    assert vm.accelerated is True
    assert vm.disguises == ("kvm hidden", "hyperv vendor_id=whatever")
    assert (vm.memory_bytes, vm.balloon_bytes, vm.hugepages) == (8 << 30, 4 << 30, 1 << 30)
    assert vm.autostart is True
    gpu, mediated, nic = vm.devices
    assert (gpu.addresses, gpu.line, gpu.managed) == (("0000:41:00.0",), 14, True)
    assert (gpu.rom_file, gpu.rom_bar) == ("/usr/share/gpu.rom", True)
    assert ("alias.name", "ua-gpu") in gpu.options
    assert ("address.multifunction", "on") in gpu.options
    assert (mediated.mdev, mediated.addresses) == ("53764d0e-85a0-42b4-af5c-2046b460b1dc", ())
    assert (nic.addresses, nic.managed, nic.line) == (("0021:de:1f.1",), False, 26)
    assert vm.line_of("cpu") == 7
    assert "hunter2" not in repr(vm)


def test_defaults_and_no_balloon() -> None:
    vm = parse(b"<domain type='qemu'><devices><memballoon model='none'/></devices></domain>")
    assert (vm.accelerated, vm.balloon_bytes, vm.memory_bytes) == (False, 0, None)
    assert vm.faults == ((1, "the domain has no name"),)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no element found"),
        (b"<domain>", "no element found"),
        (b"<domain></network>", "mismatched tag"),
        (b"<network/>", "not a domain"),
        (b"<!DOCTYPE domain><domain/>", "document type"),
        (
            b'<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><domain><name>&b;</name>'
            b"</domain>",
            "document type",
        ),
        (b'<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/shadow">]><domain>&x;</domain>', "document"),
        (b"<domain>" + b"<a>" * MAX_DEPTH, "nested deeper"),
        (b"<?xml version='1.0' encoding='klingon'?><domain/>", "encoding"),
        (b"hostpci0: 01:00.0\n", "line 1"),
        (b"\0\0\0\0", "line 1"),
    ],
)
def test_what_is_refused_says_why(data: bytes, why: str) -> None:
    assert why in refusal(data)


@pytest.mark.parametrize(
    "attributes",
    [
        "bus='0x06' slot='0x12'",
        "bus='0x106' slot='1' function='0'",
        "bus='x' slot='1' function='0'",
    ],
)
def test_an_address_that_is_none(attributes: str) -> None:
    text = (
        "<domain><name>a</name><devices><hostdev type='pci'><source><address "
        f"{attributes}/></source></hostdev></devices></domain>"
    )
    vm = parse(text.encode())
    assert vm.devices[0].addresses == ()
    assert vm.faults == ((1, "hostdev 0: its source is no PCI address"),)


# --- what the guest is, disks, and what goes past libvirt ----------------------------------------

MORE = b"""<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>win</name>
  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
      <libosinfo:os id="http://microsoft.com/win/11"/>
    </libosinfo:libosinfo>
    <secret:x xmlns:secret="y">hunter2</secret:x>
  </metadata>
  <memory unit='GiB'>8</memory>
  <os><type machine='pc-q35-9.0'>hvm</type></os>
  <cpu mode='host-passthrough'><feature policy='disable' name='hypervisor'/></cpu>
  <devices>
    <disk type='block' device='disk'>
      <source dev='/dev/disk/by-id/ata-BIG'/>
    </disk>
    <disk type='file'><source file='/var/lib/a.qcow2'/></disk>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-device'/>
    <qemu:arg value='vfio-pci,host=41:00.0,id=extra'/>
    <qemu:arg value='-cpu'/>
    <qemu:arg value='host,kvm=off'/>
    <qemu:arg value='-drive'/>
    <qemu:arg value='file=/dev/sdz,format=raw'/>
  </qemu:commandline>
</domain>
"""


def test_the_guest_by_libosinfo_also_after_redaction() -> None:
    for data in (MORE, redact_xml(MORE)):
        vm = parse(data)
        assert vm.guest == "win11"
        assert vm.line_of("ostype") == 5 or data is not MORE
    assert b"hunter2" not in redact_xml(MORE)
    assert redact_xml(MORE).count(b"\n") == MORE.count(b"\n")


@pytest.mark.parametrize(
    ("identifier", "guest"),
    [
        ("http://microsoft.com/win/10", "win10"),
        ("http://microsoft.com/win/2k22", "win2k22"),
        ("http://debian.org/debian/12", "other debian.org/debian/12"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_names_of_systems(identifier: str, guest: str) -> None:
    assert guest_of(identifier) == guest


def test_disks_of_the_host() -> None:
    assert parse(MORE).raw_disks == (
        VmDisk(14, "/dev/disk/by-id/ata-BIG"),
        VmDisk(24, "/dev/sdz"),
    )
    assert parse(DOMAIN).raw_disks == ()


def test_what_goes_past_libvirt_counts() -> None:
    vm = parse(MORE)
    (device,) = vm.devices
    assert (device.addresses, device.line, device.managed) == (("0000:41:00.0",), 20, False)
    assert vm.disguises == ("cpu feature hypervisor disabled", "kvm=off")


def test_an_nvme_disk_is_a_host_device() -> None:
    data = b"""<domain type='kvm'>
  <name>a</name><memory>1024</memory>
  <devices>
    <disk type='file'><source file='/a.img'/></disk>
    <disk type='nvme' device='disk'>
      <source type='pci' managed='yes' namespace='1'>
        <address domain='0x0000' bus='0x23' slot='0x00' function='0x0'/>
      </source>
    </disk>
    <disk type='nvme'><source type='pci' managed='no' namespace='1'/></disk>
  </devices>
</domain>"""
    vm = parse_libvirt(data, source="a.xml", autostart=False)
    assert not isinstance(vm, str)
    assert [(d.key, d.line, d.addresses, d.managed) for d in vm.devices] == [
        ("disk 0", 5, ("0000:23:00.0",), True),
        ("disk 1", 10, (), False),
    ]
    assert vm.faults == ((10, "disk 1: its source is no PCI address"),)


def test_the_line_of_a_cpu_that_goes_past_libvirt_is_kept() -> None:
    data = b"""<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>a</name><memory>1024</memory>
  <qemu:commandline>
    <qemu:arg value='-cpu'/>
    <qemu:arg value='host,kvm=off'/>
  </qemu:commandline>
</domain>"""
    vm = parse_libvirt(data, source="a.xml", autostart=False)
    assert not isinstance(vm, str)
    assert vm.disguises == ("kvm=off",)
    assert vm.line_of("qemu:commandline -cpu") == 5
