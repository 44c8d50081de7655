"""Host disks that VMs get whole, and what a capture keeps of them and of files beside them."""

from __future__ import annotations

import pytest

from vfio_agent.vmconf.proxmox import parse_proxmox
from vfio_agent.vmconf.qemu_cmdline import parse_qemu
from vfio_agent.vmconf.secrets import REDACTED, redact_cmdline, redact_file
from vfio_contract.vm import VmDisk

CONF = """scsi0: local-zfs:vm-101-disk-0,size=32G
scsi1: /dev/disk/by-id/ata-BIG,backup=0
sata0: file=/dev/sdc,size=1T
scsi2: /dev/sdd
scsi2: local:101/x.raw
unused0: /dev/sde
args: -drive file=/dev/sdf,if=virtio
[before]
scsi3: /dev/sdg
"""


def test_drives_of_a_proxmox_vm() -> None:
    vm = parse_proxmox(CONF, name="101", source="101.conf")
    assert vm.raw_disks == (
        VmDisk(2, "/dev/disk/by-id/ata-BIG"),
        VmDisk(3, "/dev/sdc"),
        VmDisk(7, "/dev/sdf"),
    )


@pytest.mark.parametrize(
    "words",
    [
        ("-drive", "file=/dev/sdb,format=raw,if=none"),
        ("-drive", "if=none,file=/dev/sdb"),
        ("-blockdev", '{"driver":"host_device","filename":"/dev/sdb","node-name":"a"}'),
        ("-blockdev", "driver=raw,file.driver=host_device,file.filename=/dev/sdb"),
        ("-hda", "/dev/sdb"),
    ],
)
def test_drives_of_a_process_also_from_a_capture(words: tuple[str, str]) -> None:
    arguments = ["qemu-system-x86_64", *words]
    vm = parse_qemu(arguments, source="", fallback_name="x")
    assert vm is not None
    assert vm.raw_disks == (VmDisk(2, "/dev/sdb"),)
    kept = redact_cmdline(("\0".join(arguments) + "\0").encode()).decode().rstrip("\0").split("\0")
    again = parse_qemu(kept, source="", fallback_name="x")
    assert again is not None
    assert again.raw_disks == vm.raw_disks


def test_a_drive_that_was_taken_out_is_not_known() -> None:
    vm = parse_qemu(["qemu-kvm", "-drive", REDACTED], source="", fallback_name="x")
    assert vm is not None
    assert vm.raw_disks is None


def test_a_drive_of_a_file_is_kept_out_of_a_capture() -> None:
    data = b"qemu-kvm\0-drive\0file=/srv/secret-customer.raw,password-secret=x\0"
    assert redact_cmdline(data) == b"qemu-kvm\0-drive\0file=\0"


@pytest.mark.parametrize(
    ("path", "text", "kept"),
    [
        ("/etc/pve/storage.cfg", "lvm: a\n\tvgname b\n\tpassword x\n", "lvm: a\n\tvgname b\n\n"),
        (
            "/etc/NetworkManager/system-connections/a.nmconnection",
            "[wifi]\npsk=x\ninterface-name=e\ntotal-vfs=4\n",
            "[wifi]\n\ninterface-name=e\ntotal-vfs=4\n",
        ),
        ("/etc/netplan/a.yaml", "e1:\n  password: x\n  virtual-function-count: 4\n",
         "e1:\n\n  virtual-function-count: 4\n"),
        ("/etc/systemd/system/a.service", "Environment=TOKEN=x\n", "\n"),
    ],
)  # fmt: skip
def test_of_files_that_may_hold_keys_only_what_is_wanted_is_kept(
    path: str, text: str, kept: str
) -> None:
    assert redact_file(path, text.encode()).decode() == kept
