"""Excerpts of a kernel log prove nothing by what they lack; silence is a shell's answer only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.pasted.pastes import BANNER, COURSE, DMESG, LSPCI_VV, by_subject, judge_text
from vfio_agent.pasted import EvidenceError, gather
from vfio_contract.findings import Verdict

QUIET = "".join(
    f"[{i / 10:12.6f}] {text}\n"
    for i, text in enumerate(
        [
            BANNER,
            "Command line: root=/dev/sda1 intel_iommu=on",
            "x86/fpu: Supporting XSAVE feature 0x001: 'x87 floating point registers'",
            "smpboot: CPU0: 12th Gen Intel(R) Core(TM) i5-12400 (family: 0x6, model: 0x97)",
            *COURSE,
            "Run /sbin/init as init process",
        ]
    )
)
"""A whole boot in which no IOMMU driver said anything."""


def without(word: str) -> str:
    """QUIET without the lines that have the word."""
    return "".join(line for line in QUIET.splitlines(keepends=True) if word not in line)


def put_behind(word: str, mark: str) -> str:
    """QUIET with a line of its own behind the line that has the word."""
    return "".join(
        line + (mark + "\n" if word in line else "") for line in QUIET.splitlines(keepends=True)
    )


EXCERPTS = {
    "grep": "root@pve:~# dmesg | grep -i linux\n" + QUIET,
    "head": "$ sudo dmesg | head -500\n" + QUIET,
    "level": "root@pve:~# dmesg -l warn,err\n" + QUIET,
    "grep-file": "root@pve:~# grep kernel /var/log/syslog\n" + QUIET,
    "dots": put_behind("clocksource", "[...]"),
    "snip": put_behind("clocksource", "[... snip ...]"),
    "cut": put_behind("clocksource", "--- cut ---"),
    "removed": put_behind("clocksource", "(lots of lines removed)"),
    "after-init": QUIET + "...\n",
    "no-memory": without("Memory: "),
    "no-net": without("NET: Registered"),
    "short": without("pnp 00:"),
}


def test_a_whole_boot_without_an_iommu_line_decides(tmp_path: Path) -> None:
    seen = judge_text(QUIET, tmp_path=tmp_path)
    assert by_subject(seen, "iommu-active")["node"].verdict is Verdict.FAIL
    assert by_subject(seen, "iommu-faults")["node"].verdict is Verdict.PASS


@pytest.mark.parametrize("name", EXCERPTS)
def test_an_excerpt_decides_nothing_by_what_it_lacks(name: str, tmp_path: Path) -> None:
    seen = judge_text(EXCERPTS[name], tmp_path=tmp_path)
    assert "an excerpt: " in seen.given[0].text
    assert by_subject(seen, "iommu-active")["node"].verdict is Verdict.UNKNOWN
    assert by_subject(seen, "iommu-faults")["node"].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("line", ["root@pve:~# dmesg", "$ journalctl -k -b 0", "# sudo dmesg -T"])
def test_a_prompt_without_a_filter_takes_nothing_away(line: str, tmp_path: Path) -> None:
    seen = judge_text(f"{line}\n{QUIET}", tmp_path=tmp_path)
    assert by_subject(seen, "iommu-active")["node"].verdict is Verdict.FAIL


def test_the_kernels_own_cut_here_is_no_mark(tmp_path: Path) -> None:
    bare = "".join(line[15:] for line in QUIET.splitlines(keepends=True))
    trace = "------------[ cut here ]------------\n.... node  #0, CPUs:        #1\n... version: 4\n"
    seen = judge_text(bare + trace, tmp_path=tmp_path)
    assert "whole boot" in seen.given[0].text


def test_a_log_that_does_not_count_is_named(tmp_path: Path) -> None:
    seen = judge_text(
        "[   90.000000] DMAR: DRHD: handling fault status reg 2\n", DMESG, tmp_path=tmp_path
    )
    assert "kernel log not used" in seen.given[0].text
    assert "not used" not in seen.given[1].text


# --- silence -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "root@pve:~# ls /sys/class/iommu\nroot@pve:~#\n",
        "root@pve:~# ls -la /sys/class/iommu/\ntotal 0\nroot@pve:~# uname -r\n",
        "$ ls /sys/class/iommu\n$ \n",
    ],
)
def test_no_unit_is_an_answer(text: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(text)
    snapshot, (given,) = gather([str(tmp_path / "a")])
    assert snapshot.facts.iommu_units == ()
    assert snapshot.facts.groups is None
    assert "no IOMMU unit" in given.text


def test_no_group_is_an_answer(tmp_path: Path) -> None:
    text = "root@pve:~# find /sys/kernel/iommu_groups -type l | sort -V\nroot@pve:~# \n"
    seen = judge_text(text, tmp_path=tmp_path)
    assert seen.snapshot.facts.groups == ()
    assert by_subject(seen, "iommu-active")["node"].verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "text",
    [
        "root@pve:~# ls /sys/class/iommu\n",
        "root@pve:~# ls /sys/class/iommu",
        "$ ls /sys/class/iommu\n$ dmesg\n",
        "ls /sys/class/iommu\n\nroot@pve:~#\n",
        "root@pve:~# ls /sys/class/iommu\nls: Permission denied\nroot@pve:~#\n",
        "root@pve:~# ls /sys/class/iommu | grep dmar1\nroot@pve:~#\n",
        "root@pve:~# find /sys/kernel/iommu_groups -type f\nroot@pve:~#\n",
        "root@pve:~# find /sys/kernel/iommu_groups -type l\nfind: denied\nroot@pve:~#\n",
    ],
)
def test_other_silence_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(text)
    snapshot, _ = gather([str(tmp_path / "a")])
    assert snapshot.facts.iommu_units is None
    assert snapshot.facts.groups is None


def test_units_elsewhere_outweigh_silence(tmp_path: Path) -> None:
    seen = judge_text(
        "root@a:~# ls /sys/class/iommu\nroot@a:~#\n", "dmar0  dmar1\n", tmp_path=tmp_path
    )
    assert seen.snapshot.facts.iommu_units == ("dmar0", "dmar1")


def test_release_and_machine_behind_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(
        "root@pve:~# uname -r\n6.8.12-5-pve\nroot@pve:~# uname -m\nx86_64\n"
    )
    snapshot, (given,) = gather([str(tmp_path / "a")])
    assert snapshot.facts.kernel.release == "6.8.12-5-pve"
    assert snapshot.facts.kernel.machine == "x86_64"
    assert given.kinds == ("uname -a",)


def test_a_log_of_other_groups_does_not_count(tmp_path: Path) -> None:
    listing = "IOMMU Group 14:\n\t00:01.0 PCI bridge [0604]: Intel Corporation x16 [8086:1901]\n"
    seen = judge_text(DMESG, listing, tmp_path=tmp_path)
    assert seen.snapshot.readings.kernel_log is None
    assert any(
        "into group 1, the listing into group 14" in g.reason for g in seen.snapshot.readings.gaps
    )


def test_the_ring_of_the_kernel_is_no_file() -> None:
    with pytest.raises(EvidenceError, match="never ends"):
        gather(["/proc/kmsg"])


def test_a_filtered_list_of_modules_is_none(tmp_path: Path) -> None:
    head = "Module                  Size  Used by\nvfio_pci               16384  0\n"
    filtered = "root@pve:~# lsmod | grep -e Module -e vfio\n" + head
    seen = judge_text(filtered, tmp_path=tmp_path)
    assert seen.snapshot.facts.modules is None
    assert "it was filtered" in seen.given[0].text
    whole = judge_text("root@pve:~# lsmod\n" + head, tmp_path=tmp_path)
    assert whole.snapshot.facts.modules is not None


def test_a_filtered_listing_is_doubted(tmp_path: Path) -> None:
    seen = judge_text("root@pve:~# lspci -nnvv | grep -A9 VGA\n" + LSPCI_VV, tmp_path=tmp_path)
    assert "it was filtered: lspci -nnvv | grep -A9 VGA" in seen.given[0].text
    assert by_subject(seen, "group-isolation")["group:1"].verdict is Verdict.UNKNOWN


# --- links of groups -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "$ ls -l /sys/kernel/iommu_groups/*/devices\n/sys/kernel/iommu_groups/0/devices:\ntotal 0\n"
        "lrwxrwxrwx 1 root root 0 Nov 22 10:00 0000:00:00.0 -> "
        "../../../../devices/pci0000:00/0000:00:00.0\n\n"
        "/sys/kernel/iommu_groups/1/devices:\ntotal 0\n"
        "lrwxrwxrwx 1 root root 0 Nov 22 10:00 0000:00:01.0 -> "
        "../../../../devices/pci0000:00/0000:00:01.0\n"
        "lrwxrwxrwx 1 root root 0 Nov 22 10:00 0000:01:00.0 -> "
        "../../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0\n",
        "0000:00:00.0 ../../../kernel/iommu_groups/0\n0000:00:01.0 ../../../kernel/iommu_groups/1\n"
        "0000:01:00.0 ../../../../kernel/iommu_groups/1\n",
        "/sys/bus/pci/devices/0000:00:00.0: ../../../kernel/iommu_groups/0\n"
        "/sys/bus/pci/devices/0000:00:01.0 -> ../../../kernel/iommu_groups/1\n"
        "/sys/bus/pci/devices/0000:01:00.0 /sys/kernel/iommu_groups/1\n",
    ],
)
def test_links_are_members(text: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(text)
    snapshot, (given,) = gather([str(tmp_path / "a")])
    assert given.kinds == ("IOMMU group listing",)
    assert {g.number: g.members for g in snapshot.facts.groups or ()} == {
        0: ("0000:00:00.0",),
        1: ("0000:00:01.0", "0000:01:00.0"),
    }
