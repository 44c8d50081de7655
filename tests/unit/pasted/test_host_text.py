"""The small commands: what they give, and when a filtered or cut list gives nothing."""

from __future__ import annotations

from vfio_agent.pasted.host_text import HostText, parse_host_text
from vfio_agent.pasted.recognise import Kind, clean, recognise_text


def read(text: str) -> HostText:
    cleaned = clean(text.encode())
    return parse_host_text(cleaned, recognise_text(cleaned))


def test_cmdline_is_joined_where_a_mail_wrapped_it() -> None:
    found = read("BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro\nintel_iommu=on quiet\n\nThanks!\n")
    assert found.files["/proc/cmdline"] == (
        b"BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro intel_iommu=on quiet\n"
    )


def test_a_cut_cmdline_is_left_out() -> None:
    found = read("BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro pcie_acs_over")
    assert found.files == {}
    assert found.left_out == [(Kind.CMDLINE, "it has no end of line: it may be cut")]


def test_lsmod() -> None:
    text = "Module                  Size  Used by\nvfio_pci 16384  0\nkvm 1 2 kvm_intel,x\n"
    assert read(text).files["/proc/modules"].split()[0] == b"vfio_pci"
    assert "/proc/modules" not in read(text.rstrip("\n")).files  # the last line may be cut
    assert "/proc/modules" not in read("vfio_pci 16384  0\n").files  # filtered by grep


def test_lscpu_with_flags_that_the_terminal_broke() -> None:
    text = (
        "Architecture:            x86_64\nVendor ID:               GenuineIntel\n"
        "  Model name:            Xeon\n    CPU family:          6\n"
        "    Flags:               fpu vme de pse tsc msr pae mce cx8 apic sep mtrr v\n"
        "                         mx smx est tm2 ssse3 sdbg fma cx16 xtpr pdcm pcid\n"
        "                         dca\n"
    )
    flags = read(text).files["/proc/cpuinfo"].decode().split("flags")[1].split()
    assert {"vmx", "smx", "pcid", "dca"} <= set(flags)
    assert read(text).files["/proc/sys/kernel/arch"] == b"x86_64\n"


def test_lscpu_of_arm_gives_the_machine_only() -> None:
    found = read("Architecture:            aarch64\nVendor ID:               ARM\n")
    assert set(found.files) == {"/proc/sys/kernel/arch"}


def test_uname_lsof_pveperf_and_the_rest() -> None:
    found = read(
        "Linux pve 6.8.12-1-pve #1 SMP PREEMPT_DYNAMIC PMX 6.8.12-1 x86_64 GNU/Linux\n"
        "crw-rw---- 1 root kvm 10, 232 Nov 22 11:00 /dev/kvm\n"
        "kvm  1234 root 30u CHR 236,1 0t0 600 /dev/vfio/12\n"
        "kvm  1234 root 31u CHR 10,196 0t0 600 /dev/vfio/vfio\n"
        "dmar0 dmar1\nFSYNCS/SECOND:     1234.56\n"
    )
    assert found.files["/proc/sys/kernel/hostname"] == b"pve\n"
    assert found.files["/proc/sys/kernel/osrelease"] == b"6.8.12-1-pve\n"
    assert found.kvm is True
    assert found.units == ("dmar0", "dmar1")
    assert [(h.path, h.pid, h.command) for h in found.holders or ()] == [
        ("/dev/vfio/12", 1234, "kvm")
    ]
    assert found.fsyncs == 1234.56


def test_a_missing_kvm_node_is_an_answer() -> None:
    assert read("ls: cannot access '/dev/kvm': No such file or directory\n").kvm is False
