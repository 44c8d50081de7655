"""`device-health`: dead, degraded or asleep, and a narrow slot is no fault."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import (
    audio,
    behind,
    bridge,
    config_space,
    function_reading,
    gpu,
    make_host,
    make_snapshot,
    nic,
    silent_host,
    unread,
    virtual_function,
)
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.device_health import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.host import Host
from vfio_contract.model import Gap, PciFunction, Snapshot

CARD = nic("0000:01:00.0")


def judged(card: PciFunction = CARD, slot_width: int = 16, **reading: Any) -> Finding:
    rows = behind(bridge("0000:00:02.0", group=9, max_link_width=slot_width), card)
    made = make_snapshot(*rows)
    readings = (function_reading(card, **reading),)
    host = Host(Snapshot(made.facts, replace(made.readings, functions=readings)))
    return find(judge(host), "function:0000:01:00.0")


def test_healthy() -> None:
    finding = judged()
    assert (finding.verdict, finding.code, finding.intended) == (
        Verdict.PASS,
        "DEVICE_HEALTHY",
        True,
    )
    assert "8.0 GT/s PCIe x8, card and slot: x8" in texts(finding)


def test_dead() -> None:
    dead = replace(CARD, config=config_space(dead=True, capabilities=None))
    finding = judged(dead)
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "DEVICE_DEAD")


@pytest.mark.parametrize(
    ("reading", "verdict", "code"),
    [
        ({"aer_fatal": 1}, Verdict.FAIL, "AER_FATAL"),
        ({"aer_nonfatal": 3}, Verdict.WARN, "AER_NONFATAL"),
        ({"aer_correctable": 1000}, Verdict.WARN, "AER_CORRECTABLE"),
        ({"aer_correctable": 999}, Verdict.PASS, "DEVICE_HEALTHY"),
        ({"power_state": "D3cold", "link_width": None}, Verdict.WARN, "DEVICE_COLD"),
        ({"link_width": 4}, Verdict.WARN, "LINK_NARROW"),
        ({"link_width": None, "power_state": "D3hot"}, Verdict.PASS, "DEVICE_HEALTHY"),
        (
            {"link_width": None, "power_state": "unknown", "runtime_status": "suspended"},
            Verdict.PASS,
            "DEVICE_HEALTHY",
        ),
        ({"link_width": None}, Verdict.UNKNOWN, "HEALTH_UNKNOWN"),
        ({"power_state": None}, Verdict.UNKNOWN, "HEALTH_UNKNOWN"),
    ],
)
def test_readings(reading: dict[str, Any], verdict: Verdict, code: str) -> None:
    finding = judged(**reading)
    assert (finding.verdict, finding.code) == (verdict, code)


def test_a_narrow_or_slow_slot_is_no_fault() -> None:
    assert judged(slot_width=4, link_width=4).code == "DEVICE_HEALTHY"
    fast = replace(CARD, max_link_speed="32.0 GT/s PCIe")
    assert judged(fast, link_speed="8.0 GT/s PCIe").code == "DEVICE_HEALTHY"


def test_a_slow_link_needs_a_reason_to_be_told() -> None:
    finding = judged(link_speed="2.5 GT/s PCIe")
    assert (finding.verdict, finding.code) == (Verdict.WARN, "LINK_SLOW")
    assert "2.5 GT/s PCIe x8, card and slot: 8.0 GT/s x8" in texts(finding)
    for card in (gpu("0000:01:00.0"), gpu("0000:01:00.0", class_code=0x120000)):
        assert judged(card, link_speed="2.5 GT/s PCIe").code == "DEVICE_HEALTHY"
    assert judged(link_speed="Unknown").code == "HEALTH_UNKNOWN"


def test_a_companion_of_an_idle_graphics_card_is_not_slow() -> None:
    rows = (gpu("0000:01:00.0"), audio("0000:01:00.1"))
    made = make_snapshot(*behind(bridge("0000:00:02.0", group=9), *rows))
    readings = tuple(function_reading(row, link_speed="2.5 GT/s PCIe") for row in rows)
    for place in ("0000:01:00.0", "0000:01:00.1"):
        host = Host(Snapshot(made.facts, replace(made.readings, functions=readings)))
        assert find(judge(host), f"function:{place}").code == "DEVICE_HEALTHY"


@pytest.mark.parametrize("name", ["max_link_speed", "class_code"])
def test_without_speed_or_class_a_slow_link_is_not_told_from_an_idle_one(name: str) -> None:
    finding = judged(unread(CARD, name), link_speed="2.5 GT/s PCIe")
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "HEALTH_UNKNOWN")
    assert judged(link_speed=None).code == "HEALTH_UNKNOWN"


def test_a_virtual_function_has_no_link() -> None:
    owner = nic("0000:03:00.0", sriov_total_vfs=1, sriov_num_vfs=1, driver="igb")
    vf = virtual_function(owner, "0000:01:00.0", 0, group=1)
    assert judged(vf, link_width=0).code == "DEVICE_HEALTHY"


def test_an_endpoint_within_the_root_complex_has_no_link() -> None:
    inside = replace(
        CARD, config=config_space(port_type=9), max_link_speed="Unknown", max_link_width=255
    )
    assert judged(inside, link_speed="Unknown", link_width=0).code == "DEVICE_HEALTHY"


def test_unread() -> None:
    finding = judged(unread(CARD, "config"))
    assert (finding.verdict, commands(finding)) == (
        Verdict.UNKNOWN,
        ["sudo lspci -xxxx -s 0000:01:00.0"],
    )
    gaps = (Gap("/sys/bus/pci/devices/0000:01:00.0/aer_dev_fatal", 5, "I/O error", ""),)
    finding = find(judge(make_host(CARD, gaps=gaps)), "function:0000:01:00.0")
    assert finding.code == "HEALTH_UNKNOWN"
    snapshot = make_snapshot(CARD)
    none = Host(Snapshot(snapshot.facts, replace(snapshot.readings, functions=())))
    assert find(judge(none), "function:0000:01:00.0").code == "HEALTH_UNKNOWN"


def test_nothing_to_judge() -> None:
    assert [f.code for f in judge(make_host())] == ["NO_DEVICES"]
    assert [f.code for f in judge(silent_host())] == ["INVENTORY_UNKNOWN"]
