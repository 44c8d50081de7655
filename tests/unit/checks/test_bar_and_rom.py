"""`bar-and-rom`: memory without an address, the boot screen in the way."""

from typing import Any

import pytest

from tests.fakes.snapshots import gpu, make_host, nic, silent_host, unread
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.bar_and_rom import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import Bar, ConfigLine, PciFunction

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


def test_the_boot_display_needs_a_rom() -> None:
    finding = judged(card(SMALL, boot_vga=True))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "BOOT_DISPLAY")


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
