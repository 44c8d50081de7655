"""The extract of the kernel log: formats, floods, several boots, and what makes it complete.

Length: one reader and all shapes of logs that it must bear.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.kernel_log import (
    KEEP_FIRST,
    KEEP_LAST,
    KINDS,
    collect_kernel_log,
    extract_log,
)
from vfio_agent.collect.log_line import parse_line, render_kmsg
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, open_root
from vfio_contract.model import KernelLog, LogLine

BANNER = "Linux version 6.1.0-9-amd64 (builder@host) (gcc 12.2.0) #1 SMP Debian 6.1.27-1"
GROUP = "pci 0000:01:00.0: Adding to iommu group 3"
INIT = "Run /sbin/init as init process"
AER = "pcieport 0000:00:1c.0: AER: Corrected error received: 0000:02:00.0"


def log_of(*texts: str) -> KernelLog:
    """A plain `dmesg` of these lines, a millisecond apart."""
    rows = [f"[{i / 1000:12.6f}] {text}\n" for i, text in enumerate(texts)]
    return extract_log("".join(rows).encode(), "test")


def texts_of(log: KernelLog) -> list[str]:
    return [line.text for line in log.lines]


# --- formats -------------------------------------------------------------------------------------

FORMATS = [
    ("{}", None),
    ("[    1.250000] {}", 1.25),
    ("   [    1.250000] {}", 1.25),
    ("[    1.250000][    T1] {}", 1.25),
    ("[    1.250000] [   C12] {}", 1.25),
    ("[    1.250000 <    0.000100>] {}", 1.25),
    ("<6>[    1.250000] {}", 1.25),
    ("<6>{}", None),
    ("kern  :info  : [    1.250000] {}", 1.25),
    ("[Mon Oct  2 12:00:00 2023] {}", None),
    ("[Oct 2 12:00] {}", None),
    ("[  +0.000100] {}", None),
    ("2023-10-02T12:00:00,123456+02:00 {}", None),
    ("Oct 20 12:00:00 host kernel: {}", None),
    ("Oct  2 12:00:00.123456 host kernel: {}", None),
    ("Oct 20 12:00:00 my.host-1 kernel: [    1.250000] {}", 1.25),
    ("2023-10-02T12:00:00.123456+02:00 host kernel: {}", None),
    ("2023-10-02T12:00:00+0200 host kernel: {}", None),
    ("Mon 2021-06-28 09:22:12 MST host kernel: {}", None),
    ("1600000000.123456 host kernel: {}", None),
    ("[    1.250000] host kernel: {}", 1.25),
    ("> {}", None),
    ("> > >> [    1.250000] {}", 1.25),
    (">>   [    1.250000] {}", 1.25),
    ("\x1b[32m[    1.250000] \x1b[0m\x1b[33m{}", 1.25),
    ("\0\0\0[    1.250000] {}", 1.25),
    ("[    1.250000] {}\r", 1.25),
]


@pytest.mark.parametrize(("form", "seconds"), FORMATS)
def test_every_format_gives_the_same_lines(form: str, seconds: float | None) -> None:
    texts = [BANNER, GROUP, "usb 1-1: new device", INIT]
    data = "".join(form.format(text) + "\n" for text in texts).encode()
    log = extract_log(data, "test")
    assert log.lines == (LogLine(1, seconds, BANNER), LogLine(2, seconds, GROUP))
    assert log.complete
    assert log.total_lines == 4


@pytest.mark.parametrize(
    "text",
    [
        "pci 0000:01:00.0: [8086:10d3] type 00 class 0x020000",
        "[drm] Initialized",
        "[ 0] RxErr                  (First)",
        "ACPI: DMAR 0x000000003FFE2341 0000C8 (v01 BOCHS  BXPC     00000001)",
    ],
)
def test_nothing_of_the_text_is_taken_for_a_prefix(text: str) -> None:
    assert parse_line(f"[    1.250000] {text}".encode()).text == text


def test_a_line_that_is_not_utf8_stays_readable() -> None:
    log = extract_log(b"[    1.000000] vfio-pci 0000:01:00.0: \xff\xfe odd\n", "test")
    assert texts_of(log) == ["vfio-pci 0000:01:00.0: \\xff\\xfe odd"]


def test_prose_around_a_stamped_log_is_left_out() -> None:
    mail = (
        "Hi,\n\nI see no line `pci: Adding to iommu group 1` here.\n\n"
        f"> [    0.000000] {BANNER}\n> [    1.000000] {GROUP}\n"
        "\nMaybe DMAR: Intel(R) Virtualization Technology for Directed I/O is off?\n"
    )
    assert texts_of(extract_log(mail.encode(), "mail")) == [BANNER, GROUP]


def test_lines_of_other_processes_are_no_evidence() -> None:
    data = (
        f"Oct 20 12:00:00 host kernel: {BANNER}\n"
        "Oct 20 12:00:00 host tool[7]: pci 0000:01:00.0: Adding to iommu group 1\n"
        "Oct 20 12:00:01 host qemu[8]: vfio 0000:01:00.0: group 21 is not viable\n"
    )
    log = extract_log(data.encode(), "journal")
    assert texts_of(log) == [BANNER]
    assert not log.reached_userspace
    ring = f"<6>[    0.000000] {BANNER}\n<12>[    9.000000] {GROUP}\n"
    log = extract_log(ring.encode(), "ring")
    assert texts_of(log) == [BANNER]
    assert log.reached_userspace  # somebody who is not the kernel wrote it


# --- completeness --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mark",
    [
        INIT,
        "Run /usr/lib/systemd/systemd as init process",
        "systemd[1]: Detected architecture x86-64.",
        "systemd-journald[181]: Received request to flush runtime journal from PID 1",
        "random: systemd-udevd: uninitialized urandom read (16 bytes read)",
        "Adding 8388604k swap on /dev/sda2.  Priority:-2 extents:1 across:8388604k",
    ],
)
def test_what_proves_that_userspace_was_reached(mark: str) -> None:
    assert log_of(BANNER, mark).complete


@pytest.mark.parametrize(
    "mark",
    [
        "Freeing initrd memory: 7796K",
        "Freeing unused kernel image (initmem) memory: 1648K",
        "Write protecting the kernel read-only data: 22528k",
        "ACPI: PCI Interrupt Link initialised",
        "iommu: Default domain type: Translated",
    ],
)
def test_what_does_not(mark: str) -> None:
    log = log_of(BANNER, mark)
    assert log.from_boot
    assert not log.reached_userspace
    assert not log.complete


def test_a_ring_that_has_rolled_over_is_not_complete() -> None:
    log = log_of(GROUP, INIT, AER)
    assert not log.from_boot
    assert log.reached_userspace
    assert not log.complete


def test_a_sentence_that_names_a_version_is_no_boot() -> None:
    log = extract_log(f"{BANNER}\n{GROUP}\nLinux version 5.4 never did this.\n".encode(), "mail")
    assert GROUP in texts_of(log)


def test_dropped_messages_of_the_boot_make_it_incomplete() -> None:
    stamped = [f"[    0.{i:06d}] {text}" for i, text in enumerate([BANNER, GROUP, INIT])]
    early = "\n".join([stamped[0], "** 57 printk messages dropped **", *stamped[1:]])
    assert not extract_log(early.encode(), "console").complete
    late = "\n".join([*stamped, "** 57 printk messages dropped **"])
    assert extract_log(late.encode(), "console").complete


def test_of_several_boots_the_last_counts_and_keeps_its_line_numbers() -> None:
    log = log_of(BANNER, GROUP, INIT, AER, BANNER, "usb 1-1: new device", "DMAR: IOMMU enabled")
    assert [(line.number, line.text) for line in log.lines] == [
        (5, BANNER),
        (7, "DMAR: IOMMU enabled"),
    ]
    assert log.from_boot
    assert not log.reached_userspace
    assert log.total_lines == 7


# --- what is kept --------------------------------------------------------------------------------

REAL_LINES = {
    "boot": "Command line: BOOT_IMAGE=/vmlinuz root=/dev/sda1 intel_iommu=on",
    "group": "iommu: Adding device 0000:01:00.0 to group 12",
    "banner": "DMAR: Intel(R) Virtualization Technology for Directed I/O",
    "reset": "vfio-pci 0000:0a:00.0: not ready 1023ms after FLR; waiting",
    "vfio": "vfio_iommu_type1_attach_group: No interrupt remapping support.",
    "remapping": "DMAR-IR: Enabled IRQ remapping in x2apic mode",
    "iommu-fault": "nvme 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000a]",
    "error": AER,
    "acs": "Warning: PCIe ACS overrides enabled; This may allow non-IOMMU protected p2p DMA",
    "guest": "Hypervisor detected: KVM",
    "virtualization": "kvm [1]: VHE mode initialized successfully",
    "iommu": "PCI-DMA: Using software bounce buffering for IO (SWIOTLB)",
    "platform": "x86/fpu: Supporting XSAVE feature 0x001: 'x87 floating point registers'",
}

OTHER_LINES = [
    "vfio-pci 0000:0a:00.0: not ready 65535ms after bus reset; giving up",
    "vfio-pci 0000:0a:00.0: vfio_bar_restore: reset recovery - restoring BARs",
    "vfio-pci 0000:0a:00.0: Unable to change power state from D3cold to D0, device inaccessible",
    "nvme 0000:0a:00.0: refused to change power state from D3hot to D0",
    "pcieport 0000:00:02.0: Data Link Layer Link Active not set in 1000 msec",
    "pci 0000:00:1f.0: timed out waiting for pending transaction; performing function level reset",
    "amdgpu 0000:0b:00.0: failed to reset",
    "DMAR: DRHD: handling fault status reg 2",
    "DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr 0xff000000",
    "arm-smmu 5000000.iommu: Unhandled context fault: fsr=0x402, iova=0x00000000",
    "arm-smmu-v3 arm-smmu-v3.0.auto: ias 44-bit, oas 44-bit (features 0x00001fff)",
    "ITS@0x0000100100040000: allocated 8192 Devices @800002e0000 (indirect, esz 8)",
    "ITS [mem 0x100100040000-0x10010005ffff]",
    "GICv2m: range[mem 0x08020000-0x08020fff], SPI[80:143]",
    "PCI-DMA: using GART IOMMU.",
    "Booting paravirtualized kernel on Xen",
    "vfio-pci: probe of 0000:01:00.0 failed with error -22",
    "ccp 0000:02:00.1: SEV-SNP API:1.55 build:21",
    "x86/cpu: VMX (outside TXT) disabled by BIOS",
    "Machine model: Gateworks Newport CN80XX GW6300",
]


@pytest.mark.parametrize("text", [*REAL_LINES.values(), *OTHER_LINES])
def test_lines_that_checks_need_are_kept(text: str) -> None:
    assert texts_of(log_of("usb 1-1: new device", text)) == [text]


def test_every_kind_has_a_real_line() -> None:
    assert list(REAL_LINES) == [kind.name for kind in KINDS]


@pytest.mark.parametrize("flood", REAL_LINES)
@pytest.mark.parametrize("lost", REAL_LINES)
def test_a_flood_of_one_kind_hides_no_other(flood: str, lost: str) -> None:
    many = [REAL_LINES[flood]] * (KEEP_FIRST + KEEP_LAST + 50)
    log = log_of(*many, REAL_LINES[lost], *many)
    assert REAL_LINES[lost] in texts_of(log)
    assert log.omitted_lines == 2 * len(many) + (flood == lost) - KEEP_FIRST - KEEP_LAST


def test_a_flood_keeps_its_first_and_its_last_lines() -> None:
    log = log_of(*[f"{AER} {i}" for i in range(5000)])
    numbers = [line.number for line in log.lines]
    assert numbers == [*range(1, KEEP_FIRST + 1), *range(5000 - KEEP_LAST + 1, 5001)]
    assert log.omitted_lines == 5000 - len(numbers)


def test_a_large_log_is_read_to_its_end() -> None:
    # crosses several blocks, whose line counts have to add up
    noise = b"[    5.000000] usb 1-1: new high-speed USB device number 4 using xhci_hcd\n" * 40_000
    data = f"[    0.000000] {BANNER}\n".encode() + noise + f"[    9.000000] {GROUP}".encode()
    log = extract_log(data, "test")
    assert log.lines[-1] == LogLine(40_002, 9.0, GROUP)
    assert log.total_lines == 40_002


# --- properties ----------------------------------------------------------------------------------

PREFIXES = [form.split("{")[0] for form, _ in FORMATS]
SOUP = st.lists(
    st.tuples(
        st.sampled_from(PREFIXES),
        st.one_of(st.sampled_from([*REAL_LINES.values(), *OTHER_LINES, BANNER, INIT]), st.text()),
    ).map("".join),
    max_size=30,
).map(lambda rows: "\n".join(rows).encode("utf-8", "surrogatepass"))


def render(line: LogLine) -> bytes:
    stamp = "" if line.seconds is None else f"[{line.seconds:12.6f}] "
    return f"<6>{stamp}{line.text}\n".encode()


@given(st.one_of(st.binary(), SOUP))
@example(b"\0" * 5000)
@example(b">" * 10_000 + b" iommu")
@example(b"[" * 10_000 + b" iommu")
@example(b"[    0.000000] iommu" + b" " * 100_000)
def test_any_bytes_give_an_extract_of_themselves(data: bytes) -> None:
    log = extract_log(data, "test")
    rows = data.split(b"\n")
    numbers = [line.number for line in log.lines]
    assert numbers == sorted(set(numbers))
    assert all(1 <= n <= log.total_lines <= len(rows) for n in numbers)
    assert len(log.lines) <= len(KINDS) * (KEEP_FIRST + KEEP_LAST)
    for line in log.lines:
        assert line.text.encode("utf-8")
        assert "\x1b" not in line.text


@given(SOUP)
def test_an_extract_of_an_extract_is_the_same(data: bytes) -> None:
    log = extract_log(data, "test")
    again = extract_log(b"".join(map(render, log.lines)), "test")
    assert texts_of(again) == texts_of(log)
    assert [line.seconds for line in again.lines] == [line.seconds for line in log.lines]


@given(SOUP, SOUP)
def test_completeness_needs_the_beginning(before: bytes, after: bytes) -> None:
    if extract_log(after, "test").complete:
        assert b"Linux version" in after
    whole = extract_log(before + f"\n<6>[    0.000000] {BANNER}\n".encode(), "test")
    assert whole.from_boot
    assert not whole.complete


# --- the ring and captured logs ------------------------------------------------------------------

RECORDS = (
    b"6,0,0,-;" + BANNER.encode() + b"\n"
    b"6,1,1250000,-;pci 0000:01:00.0: Adding to iommu group 3\n SUBSYSTEM=pci\n DEVICE=+pci:x\n"
    b"4,2,65000123,c;vfio-pci 0000:01:00.0: first\\x0asecond\n"
    b"30,3,66000000,-;systemd[1]: Detected architecture x86-64.\n"
)


def test_records_of_the_ring_become_lines() -> None:
    assert render_kmsg(RECORDS).decode().split("\n")[1:] == [
        "<6>[    1.250000] pci 0000:01:00.0: Adding to iommu group 3",
        "<4>[   65.000123] vfio-pci 0000:01:00.0: first",
        "<4>[   65.000123] second",
        "<30>[   66.000000] systemd[1]: Detected architecture x86-64.",
        "",
    ]


def test_overwritten_records_show() -> None:
    lost = RECORDS.replace(b"30,3,", b"30,9,")
    assert b"** 6 printk messages dropped **" in render_kmsg(lost)
    assert not extract_log(render_kmsg(lost), "ring").complete


@given(st.binary())
def test_any_bytes_of_a_ring_can_be_rendered(data: bytes) -> None:
    extract_log(render_kmsg(data), "ring")
    extract_log(render_kmsg(RECORDS + data), "ring")


def test_the_live_ring_is_read(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.write("/dev/kmsg", RECORDS)
    log = collect_kernel_log(Reader(LiveRoot(str(tmp_path))))
    assert log is not None
    assert log.complete
    assert log.lines[1] == LogLine(2, 1.25, GROUP)


def test_a_ring_that_only_root_may_read_names_the_command(tmp_path: Path) -> None:
    reader = Reader(LiveRoot(str(tmp_path)))
    assert collect_kernel_log(reader) is None
    assert [(gap.path, gap.remedy) for gap in reader.gaps] == [("/dev/kmsg", "sudo dmesg")]


def test_a_captured_log_is_the_file_at_its_top(tmp_path: Path) -> None:
    SysfsTree(tmp_path).write("/dmesg", f"[    0.000000] {BANNER}\n[    2.000000] {INIT}\n")
    log = collect_kernel_log(Reader(open_root(str(tmp_path))))
    assert log is not None
    assert log.complete


def test_a_log_that_says_nothing_new_is_not_taken_apart_again(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    lines = f"[    0.000000] {BANNER}\n[    2.000000] {INIT}\n"

    def collect(text: str) -> KernelLog | None:
        tree.write("/dmesg", text)
        return collect_kernel_log(Reader(open_root(str(tmp_path))))

    first = collect(lines)
    assert collect(lines) is first
    more = collect(f"{lines}[    3.000000] {AER}\n")
    assert more is not None
    assert AER in texts_of(more)
    assert collect(lines) == first


def test_a_capture_without_a_log_leaves_a_gap(tmp_path: Path) -> None:
    reader = Reader(open_root(str(tmp_path)))
    assert collect_kernel_log(reader) is None
    assert [gap.path for gap in reader.gaps] == ["/dmesg"]


# --- real logs -----------------------------------------------------------------------------------


@pytest.mark.shared
def test_real_logs_are_complete_but_for_the_one_that_died(shared: Path) -> None:
    died = "thinkpad-21lv-mtl__6.11__intel-on.dmesg"  # an oops before init, saved by pstore
    found = {}
    for path in sorted((shared / "captures/dmesg").iterdir()):
        log = extract_log(path.read_bytes(), path.name)
        assert log.omitted_lines == 0
        found[path.name] = (log.from_boot, log.reached_userspace)
    assert len(found) == 21
    assert found.pop(died) == (True, False)
    assert set(found.values()) == {(True, True)}


@pytest.mark.parametrize(
    ("records", "first_s", "last_s"),
    [
        ("6,1,1500000,-;one\n6,2,2500000,-;two\n SUBSYSTEM=pci\n", 1.5, 2.5),
        ("6,1,1500000,-;one\n6,4,2500000,-;after a gap\n6,5,3500000,-;two\n", 2.5, 3.5),
        ("", None, None),
    ],
)
def test_how_far_a_ring_buffer_reaches(
    tmp_path: Path, records: str, first_s: float | None, last_s: float | None
) -> None:
    tree = SysfsTree(tmp_path)
    tree.write("/dev/kmsg", records)
    found = collect_kernel_log(Reader(LiveRoot(str(tree.top))))
    assert found is not None
    assert (found.first_seconds, found.last_seconds) == (first_s, last_s)
    assert extract_log(b"[    1.500000] one\n", "dmesg").first_seconds is None
