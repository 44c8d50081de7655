"""`acs-override`: isolation that is claimed, configured, or was switched off after boot."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import (
    PCI_BRIDGE,
    behind,
    bridge,
    config_space,
    make_host,
    nic,
    silent_host,
    unread,
)
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.acs_override import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import Acs, BootOptions, PciFunction

OVERRIDE = "ro pcie_acs_override=downstream,multifunction"
PORT = "function:0000:00:02.0"


def port(**changes: Any) -> PciFunction:
    return bridge("0000:00:02.0", **{"group": 9} | changes)


def judged(above: PciFunction, *, subject: str = "node", **changes: Any) -> Finding:
    return find(judge(make_host(*behind(above, nic("0000:01:00.0")), **changes)), subject)


def about_ports(above: PciFunction, group: int = 1, **card: Any) -> list[Finding]:
    rows = behind(above, nic("0000:01:00.0", group=group, **card))
    return [f for f in judge(make_host(*rows)) if f.subject != "node"]


def test_no_override_anywhere() -> None:
    finding = judged(port())
    assert (finding.verdict, finding.code) == (Verdict.PASS, "ACS_NATIVE")
    assert "/etc/default/grub:6: no pcie_acs_override" in texts(finding)
    assert about_ports(port()) == []


def test_artificial_isolation_names_the_hop() -> None:
    finding = judged(port(acs=None), cmdline=OVERRIDE)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "ACS_OVERRIDE")
    assert "0000:00:02.0: no ACS capability" in texts(finding)


def test_an_override_that_overrides_nothing() -> None:
    assert judged(port(), cmdline=OVERRIDE).code == "ACS_OVERRIDE_IDLE"
    assert judged(port(), cmdline=OVERRIDE, functions=None).verdict is Verdict.UNKNOWN


def test_an_override_for_the_next_boot() -> None:
    rows = (BootOptions("grub", "/etc/default/grub:6", OVERRIDE),)
    finding = judged(port(), boot_options=rows)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "ACS_OVERRIDE_PENDING")


@pytest.mark.parametrize("changes", [{"boot_options": None}, {"cmdline": None, "kernel_log": None}])
def test_a_command_line_that_nobody_could_read(changes: dict[str, Any]) -> None:
    finding = judged(port(), **changes)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "ACS_UNKNOWN")
    assert commands(finding)


# --- cleared -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("control", "words"), [(0x00, "SV RR CR UF"), (0x11, "RR CR"), (0x1C, "SV")]
)
def test_a_hop_with_acs_cleared_below_a_group_of_its_own(control: int, words: str) -> None:
    (finding,) = about_ports(port(acs=Acs(0x1F, control)))
    assert (finding.subject, finding.verdict, finding.code) == (PORT, Verdict.FAIL, "ACS_CLEARED")
    assert f"off: {words}" in texts(finding)
    assert finding.intended is True


def test_bits_that_the_capability_lacks_are_wired_on() -> None:
    assert about_ports(port(acs=Acs(0x01, 0x01))) == []


def test_a_group_that_includes_the_hop_does_not_rely_on_it() -> None:
    assert about_ports(port(acs=Acs(0x1F, 0)), group=9) == []


def test_upper_hops_count_too() -> None:
    top = bridge("0000:00:01.0", group=8, acs=Acs(0x1F, 0))
    rows = behind(top, port(parent=top.address))
    card = replace(nic("0000:01:00.0"), parent=rows[1].address)
    found = [f for f in judge(make_host(*rows, card)) if f.subject != "node"]
    assert [f.subject for f in found] == ["function:0000:00:01.0"]


def test_functions_of_one_slot_in_groups_of_their_own() -> None:
    config = config_space(multifunction=True, acs=Acs(0x1F, 0), flr=True)
    rows = [nic(f"0000:01:00.{n}", group=n + 1, config=config) for n in (0, 1)]
    found = [f for f in judge(make_host(*rows)) if f.subject != "node"]
    assert [f.code for f in found] == ["ACS_CLEARED", "ACS_CLEARED"]
    same = [replace(row, group=1) for row in rows]
    assert [f.subject for f in judge(make_host(*same))] == ["node"]


def test_ports_with_odd_registers_are_judged_only_where_they_were_read_right() -> None:
    (finding,) = about_ports(port(acs=Acs(0x1F, 0x1D), device=0xA110))
    assert finding.verdict is Verdict.UNKNOWN
    assert about_ports(port(acs=Acs(0x1F, 0x1D, wide=True), device=0xA110)) == []
    (finding,) = about_ports(port(acs=Acs(0x1F, 0x01, wide=True), device=0xA110))
    assert finding.code == "ACS_CLEARED"
    assert about_ports(port(acs=None, port_type=PCI_BRIDGE)) == []


@pytest.mark.parametrize("vendor", [0x177D, 0x10E8, 0x17CB])
def test_no_vendor_is_believed_without_its_acs(vendor: int) -> None:
    (finding,) = about_ports(port(acs=Acs(0x1F, 0), vendor=vendor))
    assert finding.code == "ACS_CLEARED"


def test_a_hop_that_could_not_be_read() -> None:
    short = config_space(header_type=1, port_type=4, extended=None)
    for above in (unread(port(), "config"), replace(port(), config=short)):
        (finding,) = about_ports(above)
        assert (finding.subject, finding.verdict) == (PORT, Verdict.UNKNOWN)
        assert commands(finding) == ["sudo lspci -xxxx -s 0000:00:02.0"]
    card = unread(nic("0000:01:00.0"), "parent")
    found = [f for f in judge(make_host(card)) if f.subject != "node"]
    assert [f.verdict for f in found] == [Verdict.UNKNOWN]


def test_nothing_read() -> None:
    assert [f.verdict for f in judge(silent_host())] == [Verdict.UNKNOWN]


def test_a_bridge_of_which_nothing_was_read_is_one_finding() -> None:
    rows = behind(port(), nic("0000:01:00.0"))
    dark = [
        replace(f, config=None, parent=None) if f.address == "0000:00:02.0" else f for f in rows
    ]
    found = [f for f in judge(make_host(*dark)) if f.subject == PORT]
    assert [(f.verdict, f.code) for f in found] == [(Verdict.UNKNOWN, "ACS_UNKNOWN")]
