"""What a text is, by its content: every kind, quoted, coloured, in UTF-16, several in one."""

from __future__ import annotations

import pytest

from tests.unit.pasted.pastes import CMDLINE, DMESG, LOOP, LSPCI_VV, UNAME
from vfio_agent.pasted.recognise import (
    Kind,
    clean,
    is_archive,
    is_artifact,
    recognise_text,
)
from vfio_agent.pasted.source import decode_pieces

SAMPLES = {
    Kind.KERNEL_LOG: DMESG,
    Kind.LSPCI: LSPCI_VV,
    Kind.GROUPS: "/sys/kernel/iommu_groups/9/devices/0000:00:14.2\n",
    Kind.CMDLINE: CMDLINE,
    Kind.LSMOD: "Module                  Size  Used by\nkvm_intel 380928  0\n",
    Kind.LSCPU: "Architecture:            x86_64\nCPU(s):  12\n",
    Kind.CPUINFO: "processor\t: 0\nvendor_id\t: GenuineIntel\n",
    Kind.INTERRUPTS: "            CPU0       CPU1\n  0:   1   0  IR-IO-APIC   2-edge  timer\n",
    Kind.IOMMU_UNITS: "dmar0  dmar1\n",
    Kind.KVM_NODE: "crw-rw----+ 1 root kvm 10, 232 Nov 22 11:00 /dev/kvm\n",
    Kind.UNAME: UNAME,
    Kind.LSOF: "kvm  1234 root 30u CHR 236,1 0t0 600 /dev/vfio/12\n",
    Kind.LSHW: "host\n    vendor: X\n  *-core\n       product: Y\n",
    Kind.QM_CONFIG: "bios: ovmf\nhostpci0: 0000:01:00,pcie=1\nostype: l26\n",
    Kind.QEMU: "/usr/bin/kvm -id 101 -name win,debug-threads=on -device vfio-pci,host=01:00.0\n",
    Kind.DOMAIN: "<domain type='kvm'>\n  <name>vm</name>\n</domain>\n",
    Kind.MAPPING: "gpu\n\tmap id=10de:2204,iommugroup=1,node=pve,path=0000:01:00.0\n",
    Kind.MODPROBE: "options vfio-pci ids=10de:2204,10de:1aef disable_vga=1\n",
    Kind.GRUB: 'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX="quiet"\n',
    Kind.DRIVERCTL: "0000:01:00.0 vfio-pci\n",
    Kind.MEMINFO: "MemTotal:       65786312 kB\nMemFree:        1234 kB\n",
    Kind.FREE: "               total        used        free\nMem:   62Gi   1Gi  60Gi\n",
    Kind.TREE: "-[0000:00]-+-00.0\n           +-01.0-[01]--+-00.0\n",
    Kind.PVEPERF: "CPU BOGOMIPS:      48000.00\nFSYNCS/SECOND:     1234.56\n",
}


def kinds_of(data: bytes) -> tuple[Kind, ...]:
    return recognise_text(clean(b"".join(decode_pieces(iter([data])))))


@pytest.mark.parametrize(("kind", "sample"), SAMPLES.items())
def test_each_kind(kind: Kind, sample: str) -> None:
    assert kinds_of(sample.encode()) == (kind,)


@pytest.mark.parametrize("kind", [k for k in SAMPLES if k not in (Kind.LSHW, Kind.MAPPING)])
@pytest.mark.parametrize(
    "form", ["> {}", "> > {}", ">> {}", "\x1b[1m{}\x1b[0m", "\0{}", "{}\r"], ids=ascii
)
def test_each_kind_quoted_or_coloured(kind: Kind, form: str) -> None:
    text = "".join(form.format(line) + "\n" for line in SAMPLES[kind].splitlines())
    assert kind in kinds_of(text.encode())


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_each_kind_in_another_encoding(kind: Kind, encoding: str) -> None:
    assert kinds_of(SAMPLES[kind].encode(encoding)) == (kind,)


def test_one_text_of_many_kinds() -> None:
    mail = "Hi,\n\n$ dmesg\n" + DMESG + "\n$ ./groups.sh\n" + LOOP + "\n$ uname -a\n" + UNAME
    expected = (Kind.KERNEL_LOG, Kind.LSPCI, Kind.GROUPS, Kind.UNAME)
    assert kinds_of(mail.encode()) == expected


@pytest.mark.parametrize(
    "prose",
    [
        "",
        "My GPU at 01:00.0 is in group 12 with a NIC.",
        "Meet at 12:10.3 today: room 5",
        "name: foo\nmemory: 16 GB\ncpu: fast",
        "The kvm -cpu host option; qemu-system-x86_64 is the program.",
        "blacklist something",
        "Then the options are: total, used and free.",
    ],
)
def test_prose_is_nothing(prose: str) -> None:
    assert kinds_of(prose.encode()) == ()


def test_containers() -> None:
    assert is_archive(b"\xfd7zXZ\x00")
    assert is_archive(b"\0" * 257 + b"ustar\0")
    assert not is_archive(DMESG.encode())
    assert is_artifact(b'{"schema": "vfioctl.artifact/v1"}')
    assert not is_artifact(b'{"schema": "other"}')
