"""A host with something of everything that is collected, and a secret wherever one may be.

Not a healthy host: what matters is that each collector finds its files here.
"""

from __future__ import annotations

from pathlib import Path

from tests.fakes.config_bytes import make_config, pcie, sriov
from tests.fakes.sysfs_tree import SysfsTree

SECRET = "hunter2"

CONF = """#root password: hunter2
args: -device vfio-pci,host=01:00.0 -vnc :1,password=hunter2
cipassword: hunter2
description: hunter2
hostpci0: 0000:01:00,pcie=1
memory: 4096
machine: q35
name: web
scsi1: /dev/disk/by-id/ata-DISK_1,size=10G
sshkeys: ssh-ed25519 hunter2
[snap]
memory: 2048
"""
XML = """<domain type='kvm'>
  <name>db</name>
  <description>the password is
   hunter2</description>
  <metadata><app:key xmlns:app="x">hunter2</app:key>
    <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
      <libosinfo:os id="http://debian.org/debian/12"/></libosinfo:libosinfo></metadata>
  <memory unit='KiB'>1048576</memory>
  <devices>
    <graphics type='vnc' passwd='hunter2' port='-1'/>
    <disk type='block'><source dev='/dev/disk/by-id/ata-DISK_1'/></disk>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <source><address domain='0x0000' bus='0x01' slot='0x10' function='0x0'/></source>
    </hostdev>
  </devices>
</domain>
"""
QEMU = (
    "qemu-system-x86_64\0-name\0guest=solo\0-m\0size=4096\0-object\0secret,id=s,data=hunter2\0"
    "-vnc\0:1,password=hunter2\0-device\0vfio-pci,host=0000:01:00.0\0-drive\0file=/dev/sda,id=d\0"
    "-unheard-of\0hunter2\n and more\0"
)
IFACE = "auto eno1\niface eno1 inet static\n  wpa-psk hunter2\n  up echo 2 > x/sriov_numvfs\n"


def make_full_host(top: Path) -> SysfsTree:
    """A host with something of everything that is collected."""
    tree = SysfsTree(top)
    tree.host(boot_id="b-1")
    tree.iommu("dmar0")
    tree.bridge("0000:00:02.0", group=0)
    config = make_config(plain=(pcie(flr=True),), extended=(sriov(enabled=1),))
    tree.function(
        "0000:01:00.0",
        parent="0000:00:02.0",
        driver="igb",
        group=1,
        config=config,
        files={"rom": "never", "vpd": "never", "sriov_totalvfs": "7\n", "sriov_numvfs": "1\n"},
    )
    tree.virtual_function("0000:01:10.0", physfn="0000:01:00.0", index=0, group=2)
    tree.bind("0000:01:10.0", "vfio-pci")
    tree.mkdir(f"{tree.place('0000:01:10.0')}/vfio-dev/vfio0")
    tree.function("0000:00:1f.2", group=3, driver="ahci", class_code=0x010601)
    tree.write("/sys/devices/pci0000:00/firmware_node/path", "\\_SB_.PCI0\n")
    for name, text in (("bios_version", "F10\n"), ("product_uuid", "u\n"), ("sys_vendor", "A\n")):
        tree.write(f"/sys/devices/virtual/dmi/id/{name}", text)
    tree.link("/sys/class/dmi/id", "/sys/devices/virtual/dmi/id")
    tree.write("/sys/firmware/acpi/tables/DMAR", b"DMAR\0\xff")
    tree.mkdir("/sys/firmware/dmi/entries/38-0")
    tree.write("/sys/devices/platform/ipmi_bmc.0/firmware_revision", "1.2\n")
    tree.write("/sys/class/firmware-attributes/x/attributes/VTd/current_value", "Enabled\n")
    tree.write("/sys/class/firmware-attributes/x/attributes/pending_reboot", "0\n")
    disk = "/sys/devices/pci0000:00/0000:00:1f.2/ata1/block/sda"
    tree.write(f"{disk}/dev", "8:0\n")
    tree.write(f"{disk}/sda1/dev", "8:1\n")
    mapped = "/sys/devices/virtual/block/dm-0"
    tree.write(f"{mapped}/dev", "253:0\n")
    tree.write(f"{mapped}/dm/name", "pve-root\n")
    tree.link(f"{mapped}/slaves/sda1", f"{disk}/sda1")
    tree.mkdir("/sys/devices/virtual/block/loop0")
    for name, place in (
        ("sda", disk),
        ("sda1", f"{disk}/sda1"),
        ("dm-0", mapped),
        ("loop0", "/sys/devices/virtual/block/loop0"),
    ):
        tree.link(f"/sys/class/block/{name}", place)
    for node in ("sda", "sda1", "dm-0", "kvm", "vfio/vfio", "vfio/2"):
        tree.write(f"/dev/{node}", "")
    tree.link("/dev/mapper/pve-root", "/dev/dm-0")
    tree.link("/dev/disk/by-id/ata-DISK_1", "/dev/sda")
    tree.write(
        "/proc/1/mountinfo",
        "1 0 0:1 / / rw - rootfs rootfs rw\n"
        "2 1 253:0 / /var rw - ext4 /dev/mapper/pve-root rw\n"
        "3 1 0:9 / /o rw - overlay overlay rw,lowerdir=/opt/low,upperdir=/opt/up,workdir=/opt/w\n",
    )
    for folder in ("low", "up", "w"):
        tree.mkdir(f"/opt/{folder}")
    tree.write("/proc/swaps", "Filename Type Size Used Priority\n/dev/dm-0 partition 1 0 -2\n")
    nic = f"{tree.place('0000:01:00.0')}/net/eno1"
    tree.write(f"{nic}/address", "52:54:00:00:00:01\n")
    tree.write(f"{nic}/flags", "0x1003\n")
    tree.link("/sys/class/net/eno1", nic)
    tree.write("/sys/class/net/bonding_masters", "\n")
    head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    tree.write("/proc/1/net/route", head + "eno1\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\n")
    tree.write("/proc/1/net/fib_trie", "Main:\n  +-- 0.0.0.0/0 3 0 5\n")
    tree.write("/proc/meminfo", "MemTotal: 100 kB\nMemAvailable: 50 kB\n")
    tree.write("/proc/interrupts", "           CPU0\n 24:  1  IR-PCI-MSI 1-edge  vfio-msi[0]\n")
    tree.write("/proc/irq/24/smp_affinity_list", "0\n")
    tree.write("/proc/modules", "vfio_pci 1 0 - Live 0x0\n")
    tree.write("/proc/bus/input/devices", "I: Bus=0\nS: Sysfs=/devices/x\nH: Handlers=kbd\n")
    tree.write("/proc/iomem", "000a0000-000bffff : bootfb\n")
    tree.write("/proc/stat", "cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 1\n")
    tree.write("/proc/diskstats", "")
    for name in ("cpu", "io", "memory"):
        tree.write(f"/proc/pressure/{name}", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    for place in ("/sys/kernel/mm", "/sys/devices/system/node/node0"):
        for name in ("nr_hugepages", "free_hugepages", "resv_hugepages"):
            tree.write(f"{place}/hugepages/hugepages-2048kB/{name}", "4\n")
    tree.write("/sys/devices/system/cpu/isolated", "\n")
    tree.write("/sys/module/vfio_pci/parameters/ids", "8086:10ca\n")
    tree.write("/sys/module/kvm_intel/parameters/nested", "Y\n")
    tree.write("/lib/modules/6.1.0-56-amd64/modules.builtin", "kernel/vfio/vfio.ko\n")
    tree.write("/boot/initrd.img-6.1.0-56-amd64", "an image")
    tree.write("/etc/default/grub", 'GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on"\n')
    tree.write("/etc/default/grub.d/x.cfg", 'GRUB_CMDLINE_LINUX="iommu=pt"\n')
    tree.write(
        "/boot/grub/grub.cfg",
        'password_pbkdf2 root grub.pbkdf2.hunter2\nset default="0"\nlinux /vmlinuz quiet\n',
    )
    tree.write("/etc/kernel/cmdline", "root=ZFS=rpool/ROOT quiet\n")
    tree.write("/etc/kernel/proxmox-boot-uuids", "AAAA-BBBB\n")
    tree.write("/etc/modprobe.d/vfio.conf", "options vfio-pci ids=8086:10ca\n")
    tree.write("/etc/modules", "vfio_pci\n")
    tree.write("/etc/initramfs-tools/modules", "vfio\n")
    tree.write("/etc/driverctl.d/0000:01:10.0", "vfio-pci\n")
    tree.write("/etc/udev/rules.d/9.rules", 'ATTR{device/sriov_numvfs}="2"\n')
    tree.write("/etc/systemd/system/vfs.service", "Password=hunter2\nX=sriov_numvfs\n")
    tree.write("/etc/network/interfaces", IFACE)
    tree.write("/etc/netplan/x.yaml", "network:\n  e0:\n   password: hunter2\n   total-vfs: 2\n")
    tree.write("/etc/pve/qemu-server/101.conf", CONF)
    tree.write("/etc/pve/mapping/pci.cfg", "gpu\n\tmap node=alpha,path=0000:01:00.0,iommugroup=1\n")
    tree.write("/etc/pve/storage.cfg", "lvm: l\n\tvgname pve\n\tpassword hunter2\n")
    tree.write("/etc/libvirt/qemu/db.xml", XML)
    tree.mkdir("/etc/libvirt/qemu/autostart")
    tree.hold(1, "systemd", "/run/x")
    tree.hold(4711, "qemu-system-x86", "/dev/vfio/vfio", "/dev/vfio/2", "/home/alice/private")
    tree.write("/proc/4711/cmdline", QEMU)
    tree.write("/proc/4711/cgroup", "0::/qemu.slice/101.scope\n")
    return tree
