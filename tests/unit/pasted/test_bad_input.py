"""Hostile and broken text: never a crash, never a PASS that the whole text would not give."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.pasted.pastes import (
    CMDLINE,
    DMESG,
    LOOP,
    LSPCI_VV,
    UNAME,
    by_subject,
    judge_stdin,
)
from vfio_agent.pasted import EvidenceError
from vfio_agent.pasted.inventory import build_inventory
from vfio_agent.pasted.listing import parse_listing
from vfio_agent.pasted.recognise import LINE_CHARS, SCAN_BYTES, clean, recognise_text
from vfio_contract.findings import Verdict

ALL = LSPCI_VV + UNAME + CMDLINE + "\n" + LOOP + "\n" + DMESG
WORDS = sorted(set(re.findall(r"\S+\s*", ALL)))
SOUP = st.lists(
    st.one_of(
        st.sampled_from(WORDS),
        st.sampled_from(ALL.splitlines(keepends=True)),
        st.text(max_size=20),
        st.sampled_from(["> ", "\0", "\r", "\x1b[31m", "\t", "\n\n", "IOMMU Group 99999999:\n"]),
    ),
    max_size=60,
).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass"))


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=400), SOUP))
@example(b"\xff\xfe\x00")
@example(b"{" * 10_000)
@example(b'{"schema": "vfioctl.artifact/x"')
@example(b"\x00" * 600)
@example(b"IOMMU Group 1:\n" * 50)
@example(b"CPU0\n CPU0\n")
@example(b"Architecture:\n")
def test_any_bytes_give_a_report_that_is_no_pass(data: bytes) -> None:
    try:
        seen = judge_stdin(data)
    except EvidenceError:
        return  # it says that it is an archive or an artifact, and is none that can be read
    assert seen.report.verdict is not Verdict.PASS
    assert len(seen.given) == 1


_PORT = (
    "00:01.1 PCI bridge [0604]: Intel Corporation PCIe x8 [8086:1905] (rev 07) (prog-if 00)\n"
    "\tControl: I/O+ Mem+\n\tIOMMU group: 1\n"
    "\tBus: primary=00, secondary=02, subordinate=02, sec-latency=0\n"
    "\tCapabilities: [a0] Express (v2) Root Port (Slot+), MSI 00\n"
    "\tKernel driver in use: pcieport\n\n"
)
DIRTY_VV = LSPCI_VV.replace("00:02.0 VGA", f"{_PORT}00:02.0 VGA") + (
    "02:00.0 Ethernet controller [0200]: Intel Corporation I210 [8086:1533] (rev 03)\n"
    "\tControl: I/O+ Mem+\n\tIOMMU group: 1\n\tKernel driver in use: igb\n\n"
)
WHOLE = UNAME + CMDLINE + "\n" + DIRTY_VV


@settings(max_examples=60)
@given(st.integers(0, len(WHOLE)), st.booleans())
@example(WHOLE.index("Intel Corporation I210") + 1, True)
@example(WHOLE.index("02:00.0"), False)
@example(WHOLE.index("01:00.1"), False)
def test_no_cut_makes_a_dirty_group_clean(place: int, newline: bool) -> None:
    seen = judge_stdin((WHOLE[:place] + "\n" * newline).encode())
    found = by_subject(seen, "group-isolation").get("group:1")
    assert found is None or found.verdict is not Verdict.PASS


def test_of_the_last_device_no_companion_is_ruled_out() -> None:
    """The text ends after the GPU: its audio function may have been cut off."""
    cut = LSPCI_VV[: LSPCI_VV.index("01:00.1")]
    seen = judge_stdin((UNAME + CMDLINE + "\n" + cut).encode())
    units = [f for f in seen.report.findings if f.check == "device-functions"]
    assert {f.verdict for f in units if "01:00.0" in str(f.evidence)} == {Verdict.UNKNOWN}


def test_a_prompt_shows_where_a_list_ends() -> None:
    nnk = "".join(
        line + "\n"
        for line in LSPCI_VV.splitlines()
        if line[:1].isdigit() or "Kernel driver" in line
    )
    members = {"00:00.0": 0, "00:01.0": 1, "00:02.0": 2, "01:00.0": 1, "01:00.1": 1}
    links = "".join(
        f"/sys/kernel/iommu_groups/{group}/devices/0000:{address}\n"
        for address, group in members.items()
    )
    one = f"$ lspci -nnk\n{nnk}$ find /sys/kernel/iommu_groups -type l\n{links}"
    for text, clean_group in [(one + "$ exit\n", True), (one, True), (nnk + LOOP[:70], False)]:
        seen = judge_stdin((UNAME + CMDLINE + "\n" + text).encode())
        found = by_subject(seen, "group-isolation").get("group:1")
        assert (found is not None and found.code == "GROUP_CLEAN") is clean_group, text


@settings(max_examples=60)
@given(st.sets(st.integers(0, ALL.count("\n") - 1), max_size=12))
def test_losing_lines_never_makes_the_iommu_active(lost: set[int]) -> None:
    off = DMESG.replace("Adding to iommu group 1", "x").replace("Directed I/O", "x")
    rows = [row for i, row in enumerate((LOOP + "\n" + off).splitlines(True)) if i not in lost]
    seen = judge_stdin("".join(rows).encode())
    assert by_subject(seen, "iommu-active")["node"].verdict is not Verdict.PASS


HOSTILE = {
    "quotes": b">" * 300_000,
    "quoted lines": b"> > > \n" * 40_000,
    "nul": b"\0" * 300_000,
    "one address after another": b"00:00.0/" * 40_000,
    "headers": b"01:00.0 PCI bridge [0604]: x\n" * 5_000,
    "groups": b"IOMMU Group 1\n" * 20_000,
    "brackets": (b"01:00.0 A" + b"[1234:1234]" * 300 + b": b\n") * 50,
    "paths": (b"a/iommu_groups/" * 250 + b"\n") * 50,
    "links": (b"iommu_group devices/pci0000:00" + b"/00:00.0" * 400 + b"\n") * 50,
    "uname": (b"Linux a 1.1 #1 " + b" abcdefg" * 400 + b"\n") * 50,
    "parameters": b"BOOT_IMAGE=/x\n" + (b"a=" * 2000 + b"!\n") * 50,
    "processors": (b" CPU0" + b" CPU1" * 700 + b"x\n") * 50,
    "banners": b"Linux version 6 (" * 20_000,
    "bytes": bytes(range(256)) * 1_000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.timeout(60)
def test_no_pattern_runs_away(data: bytes) -> None:
    """The limit is far above what linear work takes and far below what a runaway would."""
    assert judge_stdin(data).report.verdict is not Verdict.PASS


def test_bridges_that_lead_to_themselves_or_each_other_end() -> None:
    text = "".join(
        f"0{i}:00.0 PCI bridge [0604]: x\n\tFlags: fast devsel\n"
        f"\tBus: primary=00, secondary=0{i % 3 + 1}, subordinate=ff\n\n"
        for i in range(1, 4)
    )
    for function in build_inventory([parse_listing(clean(text.encode()))]).functions or ():
        assert function.root == ""


def test_long_lines_and_long_texts_are_cut_and_said() -> None:
    text = clean(b"A" * (LINE_CHARS * 2) + b"\n")
    assert len(text.lines[0]) == LINE_CHARS
    assert not text.cut
    long = clean(LSPCI_VV.encode() + b"\n" * SCAN_BYTES)
    assert long.cut
    assert "longer" in "; ".join(parse_listing(long).doubts)
    assert recognise_text(long)


def test_a_group_number_out_of_reach_is_no_group() -> None:
    text = f"IOMMU Group 9999999 {LSPCI_VV.splitlines()[0]}\n"
    found = build_inventory([parse_listing(clean(text.encode()))])
    assert found.groups is None
