"""Every class of drift, from an edit of one captured host; the table of them is complete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.vms import make_device, make_vm
from vfio_agent.inspect import inspect_host
from vfio_contract import codes
from vfio_contract.codes import CLUSTER_CODES
from vfio_contract.drift import CONSEQUENCES, Change, Consequence, compare, describe
from vfio_contract.findings import Verdict
from vfio_contract.host import Host
from vfio_contract.model import Acs, BootOptions, Facts, PciFunction, ResizableBar

HOSTS = Path(__file__).resolve().parents[2] / "data" / "hosts"
CARD = "0000:01:00.0"
"""gpubox: an NVMe disk or card below port 00:02.0, on vfio-pci, with FLR."""


@cache
def captured(name: str = "gpubox-f10") -> Host:
    return inspect_host(str(HOSTS / f"{name}.tar.gz")).host


def edited(edit: Callable[[PciFunction], PciFunction | None], **facts: Any) -> Host:
    """The captured host with each function changed, or left out where that is None."""
    host = captured()
    rows = tuple(f for row in host.functions if (f := edit(row)) is not None)
    changed: Facts = replace(host.facts, functions=rows, groups=None, **facts)
    return Host(replace(host.snapshot, facts=changed))


def only(address: str, **changes: Any) -> Callable[[PciFunction], PciFunction]:
    return lambda f: replace(f, **changes) if f.address == address else f


def same(function: PciFunction) -> PciFunction:
    return function


def function_at(address: str) -> PciFunction:
    return captured().by_address[address]  # type: ignore[index]


def config_of(address: str, **changes: Any) -> Callable[[PciFunction], PciFunction]:
    config = function_at(address).config
    assert config is not None
    return only(address, config=replace(config, **changes))


PORT = function_at(CARD).parent
assert PORT
TOGETHER = only("0000:02:00.0", group=function_at(CARD).group)
OVERRIDE = "pcie_acs_override=downstream,multifunction"
CMDLINE = captured().facts.cmdline or ""


def without_acs(function: PciFunction) -> PciFunction:
    if function.address != PORT or function.config is None:
        return function
    extended = tuple(i for i in function.config.extended or () if i != 0x0D)
    return replace(function, config=replace(function.config, acs=None, extended=extended))


def next_boot(options: str) -> dict[str, Any]:
    return {"boot_options": (BootOptions("grub", "/etc/default/grub:6", options),)}


def moved(function: PciFunction) -> PciFunction:
    if function.address != CARD:
        return function
    return replace(function, address="0000:07:00.0")  # type: ignore[arg-type]


WIDE = "16.0 GT/s PCIe"
LINKED = {"max_link_speed": WIDE, "max_link_width": 16}


def linked(function: PciFunction, width: int = 16) -> PciFunction:
    if function.address == CARD:
        return replace(function, max_link_speed=WIDE, max_link_width=16)
    if function.address == PORT:
        return replace(function, max_link_speed=WIDE, max_link_width=width)
    return function


def narrowed(function: PciFunction) -> PciFunction:
    return linked(function, 4)


def acs(control: int) -> Callable[[PciFunction], PciFunction]:
    return config_of(str(PORT), acs=Acs(0x1F, control))


HALF_BAR = tuple(replace(b, size_bytes=b.size_bytes // 2) for b in function_at(CARD).bars or ())
NO_BAR = tuple(replace(b, start=0, flags=b.flags | 0x200) for b in function_at(CARD).bars or ())
RESIZED = tuple(
    config_of(CARD, resizable=(ResizableBar(1, size << 20, 0x7F00),)) for size in (256, 16384)
)

CASES: dict[str, tuple[Host, Host, str]] = {
    "FIRMWARE_CHANGED": (
        captured(),
        edited(same, firmware=replace(captured().facts.firmware, bios_version="F11")),
        "BIOS F10 01/02/2025 -> F11 01/02/2025",
    ),
    "NEXT_BOOT_CHANGED": (
        edited(same, **next_boot(CMDLINE)),
        edited(same, **next_boot(f"{CMDLINE} {OVERRIDE}")),
        OVERRIDE,
    ),
    "GROUP_RENUMBERED": (captured(), edited(only(CARD, group=77)), "group 77: 0000:01:00.0"),
    "DEVICE_MOVED": (captured(), edited(moved), "0000:01:00.0 -> 0000:07:00.0"),
    "GROUP_WIDENED": (captured(), edited(TOGETHER), "widened (merged): 0000:01:00.0 + 0000:02"),
    "GROUP_SPLIT": (edited(TOGETHER), captured(), "0000:01:00.0 0000:02:00.0 -> group"),
    "GROUP_NARROWED": (
        edited(TOGETHER),
        edited(lambda f: None if f.address == "0000:02:00.0" else f),
        "0000:01:00.0 0000:02:00.0 -> group",
    ),
    "DEVICE_VANISHED": (
        captured(),
        edited(lambda f: None if f.address == CARD else f),
        "is gone",
    ),
    "DEVICE_APPEARED": (edited(lambda f: None if f.address == CARD else f), captured(), "is new"),
    "BINDING_LOST": (
        edited(only(CARD, driver="vfio-pci", vfio_device=True)),
        edited(only(CARD, driver="nvme", vfio_device=False)),
        "vfio-pci -> nvme",
    ),
    "BINDING_GAINED": (
        edited(only(CARD, driver="", vfio_device=False)),
        edited(only(CARD, driver="vfio-pci", vfio_device=True)),
        "no driver -> vfio-pci",
    ),
    "RESET_LOST": (
        edited(only(CARD, reset_methods=("flr", "bus"))),
        edited(only(CARD, reset_methods=("bus",))),
        "function -> slot",
    ),
    "RESET_GAINED": (
        edited(only(CARD, reset_methods=("pm",))),
        edited(only(CARD, reset_methods=("flr", "pm"))),
        "weak -> function",
    ),
    "VF_COUNT_CHANGED": (
        edited(only(CARD, sriov_total_vfs=7, sriov_num_vfs=4)),
        edited(only(CARD, sriov_total_vfs=7, sriov_num_vfs=0)),
        "4 VFs enabled -> 0 VFs enabled",
    ),
    "BAR_CHANGED": (captured(), edited(only(CARD, bars=HALF_BAR)), "BAR 0: "),
    "LINK_DEGRADED": (edited(linked), edited(narrowed), "16 GT/s x16 -> 16 GT/s x4"),
    "LINK_IMPROVED": (edited(narrowed), edited(linked), "16 GT/s x4 -> 16 GT/s x16"),
    "ACS_CLEARED": (edited(acs(0x1D)), edited(acs(0x01)), "ACSCtl 0x1d -> ACSCtl 0x01"),
    "ACS_RESTORED": (edited(acs(0x01)), edited(acs(0x1D)), "ACSCtl 0x01 -> ACSCtl 0x1d"),
    "ISOLATION_ARTIFICIAL": (
        edited(without_acs),
        edited(without_acs, cmdline=f"{CMDLINE} {OVERRIDE}"),
        "by the hardware -> by pcie_acs_override",
    ),
    "ISOLATION_NATIVE": (
        edited(without_acs, cmdline=f"{CMDLINE} {OVERRIDE}"),
        edited(without_acs),
        "by pcie_acs_override -> by the hardware",
    ),
}
"""Class -> before, after, and what the line for people says."""


def found(before: Host, after: Host, code: str) -> list[Change]:
    return [c for c in compare(before, after) if c.code == code]


@pytest.mark.parametrize("code", sorted(CASES))
def test_each_class_from_a_captured_host(code: str) -> None:
    before, after, said = CASES[code]
    changes = found(before, after, code)
    assert changes, [c.code for c in compare(before, after)]
    assert any(said in describe(c) for c in changes), [describe(c) for c in changes]
    others = {c.code for c in compare(before, after)} - {code}
    # a card that left takes its place in a group along; an override is a part of the command line
    allowed = {"GROUP_NARROWED", "DEVICE_VANISHED", "FIRMWARE_CHANGED"}
    assert others <= allowed, others


def test_every_class_has_a_case_a_mirror_and_a_consequence() -> None:
    from tests.unit.contract.test_drift_properties import MIRROR

    assert set(CASES) == set(CONSEQUENCES) == set(MIRROR)
    assert set(CONSEQUENCES) <= {code.name for code in CLUSTER_CODES}


def test_harm_is_what_fails_and_only_that_cordons() -> None:
    by_name = {code.name: code for code in CLUSTER_CODES}
    for name, consequence in CONSEQUENCES.items():
        assert (by_name[name].verdict is Verdict.FAIL) is (consequence is Consequence.CORDONS), name
        for change in found(*CASES[name][:2], name):
            assert change.harms is (consequence is Consequence.CORDONS)


def test_what_a_hypervisor_binds_comes_and_goes_with_its_vm() -> None:
    bound = only(CARD, driver="vfio-pci", vfio_device=True)
    resting = only(CARD, driver="nvme", vfio_device=False)
    vms = (make_vm(make_device("0000:01:00")),)
    running, at_rest = edited(bound, vms=vms), edited(resting, vms=vms)
    assert compare(running, at_rest) == ()
    assert compare(at_rest, running) == ()
    alone = (make_vm(make_device("0000:01:00", managed=False)),)
    lost = compare(edited(bound, vms=alone), edited(resting, vms=alone))
    assert [c.code for c in lost] == [codes.BINDING_LOST.name]


def test_a_bar_without_an_address_and_a_resized_one() -> None:
    (change,) = compare(captured(), edited(only(CARD, bars=NO_BAR)))
    assert ", no address" in change.after
    assert ", no address" not in change.before
    (change,) = compare(edited(RESIZED[0]), edited(RESIZED[1]))
    assert (change.before, change.after) == ("BAR 1 set to 256 MiB", "BAR 1 set to 16 GiB")


def test_an_address_of_a_bar_and_the_speed_of_now_are_no_drift() -> None:
    bars = tuple(replace(b, start=b.start + (1 << 33)) for b in function_at(CARD).bars or ())
    assert compare(captured(), edited(only(CARD, bars=bars))) == ()


def test_what_both_say_of_the_next_boot_is_told_once_it_is_booted() -> None:
    """Running A with B configured, then running B: the command line says it, nothing else."""
    asked = f"{CMDLINE} iommu.strict=1"
    before = edited(same, **next_boot(asked))
    after = edited(same, cmdline=asked, **next_boot(asked))
    assert [c.detail for c in compare(before, after)] == ["cmdline"]
    settled = edited(same, **next_boot(CMDLINE))
    assert [c.detail for c in compare(settled, after)] == ["cmdline"]


def test_the_override_that_carries_nothing_is_no_artificial_isolation() -> None:
    proven = edited(same, cmdline=f"{CMDLINE} {OVERRIDE}")
    assert CARD not in {c.address_after for c in found(captured(), proven, "ISOLATION_ARTIFICIAL")}


def test_f10_to_f11() -> None:
    changes = compare(captured(), captured("gpubox-f11"))
    assert {c.code for c in changes} == {"FIRMWARE_CHANGED", "DEVICE_MOVED", "GROUP_WIDENED"}
    assert all(c.confidence == "" for c in changes)


def test_a_member_whose_group_was_not_read_neither_left_nor_came() -> None:
    together = edited(TOGETHER)
    unread = edited(
        lambda f: replace(TOGETHER(f), group=None) if f.address == CARD else TOGETHER(f)
    )
    assert compare(together, unread) == ()
    assert compare(unread, together) == ()
