"""`bar-and-rom`: memory without an address, the boot screen in the way."""

from typing import Any

import pytest

from tests.fakes.snapshots import config_space, gpu, make_host, make_log, nic, silent_host, unread
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.bar_and_rom import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import AddressWidths, Bar, ConfigLine, PciFunction, ResizableBar

MEMORY, IO, UNSET = 0x200, 0x100, 0x20000000
BIG = Bar(1, 0x6000000000, 16 << 30, 0x14220C)
SMALL = Bar(0, 0xFC000000, 16 << 20, MEMORY)
SCREEN = (ConfigLine("fc000000-fc7e8fff", "BOOTFB"),)


def card(*bars: Bar, **changes: Any) -> PciFunction:
    return gpu("0000:01:00.0", bars=bars, **changes)


def judged(function: PciFunction, **changes: Any) -> Finding:
    return find(judge(make_host(function, **changes)), "function:0000:01:00.0")


def test_ready() -> None:
    finding = judged(card(SMALL, BIG))
    assert (finding.verdict, finding.code) == (Verdict.PASS, "BARS_READY")
    assert "BAR 1: 16 GiB at 0x6000000000 (above 4G)" in texts(finding)


@pytest.mark.parametrize("bar", [Bar(1, 0, 16 << 30, MEMORY), Bar(1, 0x1000, 4096, MEMORY | UNSET)])
def test_a_memory_bar_without_an_address(bar: Bar) -> None:
    finding = judged(card(SMALL, bar))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "BAR_UNASSIGNED")
    assert "no address" in texts(finding)


def test_io_bars_and_roms_need_none() -> None:
    rom = Bar(6, 0, 512 << 10, MEMORY | UNSET)
    assert judged(card(SMALL, Bar(4, 0, 128, IO | UNSET), rom)).code == "BARS_READY"


def test_the_boot_screen_holds_a_bar() -> None:
    finding = judged(card(SMALL), framebuffers=SCREEN)
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "FRAMEBUFFER_HOLDS_BAR")
    assert "/proc/iomem: fc000000-fc7e8fff BOOTFB" in texts(finding)
    assert judged(card(BIG), framebuffers=SCREEN).code == "BARS_READY"
    assert judged(card(SMALL, driver="amdgpu"), framebuffers=SCREEN).code == "BARS_READY"
    variant = card(SMALL, driver="nvgrace_gpu_vfio_pci")
    assert judged(variant, framebuffers=SCREEN).code == "FRAMEBUFFER_HOLDS_BAR"


def test_the_boot_display_needs_a_rom() -> None:
    finding = judged(card(SMALL, boot_vga=True))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "BOOT_DISPLAY")


def test_resizable_bars_are_told_with_what_is_possible() -> None:
    config = config_space(resizable=(ResizableBar(1, 256 << 20, 0x7F00),))
    finding = judged(card(SMALL, BIG, config=config))
    assert finding.code == "BARS_READY"
    assert "BAR 1 is resizable: 256 MiB of 256 MiB to 16 GiB" in texts(finding)
    config = config_space(resizable=(ResizableBar(1, 1 << 20, 0),))
    assert "1 MiB of unknown sizes" in texts(judged(card(SMALL, config=config)))


NARROW = AddressWidths(cpu_bits=46, iommu=(("dmar0", 39), ("dmar1", 48)))


def test_a_wide_bar_behind_a_narrow_iommu() -> None:
    finding = judged(card(SMALL, BIG), address_widths=NARROW)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "IOMMU_NARROW")
    assert "/sys/class/iommu/dmar0/intel-iommu/cap: 39 bits" in texts(finding)
    assert "host-phys-bits-limit=39" in finding.decision
    assert judged(card(SMALL), address_widths=NARROW).code == "BARS_READY"
    same = AddressWidths(cpu_bits=39, iommu=(("dmar0", 39),))
    assert judged(card(SMALL, BIG), address_widths=same).code == "BARS_READY"


@pytest.mark.parametrize(
    "widths", [None, AddressWidths(None, (("dmar0", 39),)), AddressWidths(46, None)]
)
def test_unread_widths_matter_for_wide_bars_on_intel(widths: AddressWidths | None) -> None:
    finding = judged(card(SMALL, BIG), address_widths=widths)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "BARS_UNKNOWN")
    assert commands(finding)
    assert judged(card(SMALL), address_widths=widths).code == "BARS_READY"
    amd = {"iommu_units": ("ivhd0",), "address_widths": widths}
    assert judged(card(SMALL, BIG), **amd).code == "BARS_READY"


@pytest.mark.parametrize("name", ["bars", "boot_vga", "class_code"])
def test_unread(name: str) -> None:
    finding = judged(unread(card(SMALL), name))
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "BARS_UNKNOWN")
    assert commands(finding)


def test_hidden_addresses_matter_for_displays_only() -> None:
    finding = judged(card(SMALL), framebuffers=None)
    assert finding.verdict is Verdict.UNKNOWN
    assert "/proc/iomem" in commands(finding)[0]
    assert judged(nic("0000:01:00.0", bars=(SMALL,)), framebuffers=None).code == "BARS_READY"


def test_nothing_to_judge() -> None:
    assert [f.code for f in judge(make_host())] == ["NO_DEVICES"]
    assert [f.code for f in judge(silent_host())] == ["INVENTORY_UNKNOWN"]


def test_a_bar_that_the_log_says_was_taken() -> None:
    line = "vfio-pci 0000:01:00.0: BAR 0: can't reserve [mem 0xfc000000-0xfcffffff 64bit pref]"
    log = make_log(line, line.replace("01:00.0", "02:00.0"))
    finding = judged(card(SMALL), kernel_log=log)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "BAR_TAKEN")
    assert texts(finding).count("can't reserve") == 1
    # what holds it now is the harder evidence, and not knowing it is never better
    assert judged(card(SMALL), kernel_log=log, framebuffers=SCREEN).verdict is Verdict.FAIL
    unknown = judged(card(SMALL), kernel_log=log, framebuffers=None)
    assert unknown.code == "BARS_UNKNOWN"
    assert "framebuffer" in unknown.meaning
    other = make_log(line.replace("01:00.0", "02:00.0"))
    assert judged(card(SMALL), kernel_log=other).code == "BARS_READY"
