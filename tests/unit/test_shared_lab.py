"""The lab's captured hosts, judged as the people who booted them would.

Real kernels under an emulated IOMMU; the tars hold sysfs and the log but no mounts, interfaces or
/dev, so what depends on those is UNKNOWN and said so.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from vfio_agent.checks import judge
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import open_root
from vfio_contract.findings import Finding, Report, Verdict
from vfio_contract.host import Host

pytestmark = pytest.mark.shared

M3_CLEAN = (6, 14, 15, 16, 18, 19, 21, 22)
M3_DIRTY = (13, 20)


@cache
def _judge(tar: Path) -> Report:
    return judge(Host(collect_host(open_root(str(tar)))))


class Judged:
    """The findings of one captured host, by check and subject."""

    def __init__(self, shared: Path, name: str) -> None:
        self.report = _judge(shared / "captures" / "lab" / f"{name}.tar.gz")

    def find(self, check: str, subject: str = "node") -> Finding:
        (found,) = (f for f in self.report.findings if (f.check, f.subject) == (check, subject))
        return found

    def group(self, number: int) -> Finding:
        return self.find("group-isolation", f"group:{number}")

    def reset(self, address: str) -> Finding:
        return self.find("reset-capability", f"function:{address}")


def _texts(finding: Finding) -> str:
    return "\n".join(f"{e.source}: {e.text}" for e in finding.evidence)


# --- node ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "iommu", "remapping"),
    [
        ("m3/boot", Verdict.PASS, Verdict.PASS),
        ("m3/end", Verdict.PASS, Verdict.PASS),
        ("k612-m3/boot", Verdict.PASS, Verdict.PASS),
        ("g3a/boot", Verdict.PASS, Verdict.PASS),
        ("g3b/boot", Verdict.PASS, Verdict.PASS),
        ("n-amd/boot", Verdict.PASS, Verdict.PASS),
        ("n-noir/boot", Verdict.PASS, Verdict.FAIL),
        ("n-iooff/boot", Verdict.FAIL, Verdict.PASS),
        ("n-nodev/boot", Verdict.FAIL, Verdict.FAIL),
    ],
)
def test_remapping(name: str, iommu: Verdict, remapping: Verdict, shared: Path) -> None:
    host = Judged(shared, name)
    assert host.find("iommu-active").verdict is iommu
    assert host.find("interrupt-remapping").verdict is remapping


@pytest.mark.parametrize("name", ["n-iooff/boot", "n-nodev/boot"])
def test_without_an_iommu_what_depends_on_it_is_not_discussed(name: str, shared: Path) -> None:
    host = Judged(shared, name)
    assert host.report.verdict is Verdict.FAIL
    for check in ("group-isolation", "driver-binding"):
        findings = [f for f in host.report.findings if f.check == check]
        assert [(f.verdict, f.blocked_by) for f in findings] == [(Verdict.BLOCKED, "iommu-active")]


def test_causes(shared: Path) -> None:
    off = Judged(shared, "n-iooff/boot").find("iommu-active")
    assert "intel_iommu=off" in off.decision
    assert "kernel log: DMAR: IOMMU disabled" in _texts(off)
    absent = Judged(shared, "n-nodev/boot").find("iommu-active")
    assert "no virtual IOMMU" in absent.meaning
    plain = Judged(shared, "n-noir/boot").find("interrupt-remapping")
    assert "IO-APIC, not IR-IO-APIC" in _texts(plain)


@pytest.mark.parametrize("name", ["m3/boot", "n-amd/boot"])
def test_an_uncaptured_dev_is_unknown(name: str, shared: Path) -> None:
    finding = Judged(shared, name).find("cpu-virtualization")
    assert finding.verdict is Verdict.UNKNOWN
    assert "/dev/kvm" in {m.evidence for m in finding.missing}


# --- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m3/boot", "k612-m3/boot", "m3/end"])
@pytest.mark.parametrize("number", M3_CLEAN)
def test_clean_groups_of_the_31_function_host(name: str, number: int, shared: Path) -> None:
    finding = Judged(shared, name).group(number)
    assert (finding.verdict, finding.code) == (Verdict.PASS, "GROUP_CLEAN")


@pytest.mark.parametrize("name", ["m3/boot", "k612-m3/boot", "m3/end"])
@pytest.mark.parametrize("number", M3_DIRTY)
def test_dirty_groups_of_the_31_function_host(name: str, number: int, shared: Path) -> None:
    finding = Judged(shared, name).group(number)
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "GROUP_DIRTY")


def test_group_6_holds_a_card_and_its_own_port(shared: Path) -> None:
    finding = Judged(shared, "m3/end").group(6)
    assert "0000:00:06.0 [0604]" in _texts(finding)
    assert "viable now: yes" in _texts(finding)


def test_group_20_is_spoiled_by_its_bridge_whatever_its_endpoints_are_on(shared: Path) -> None:
    for name in ("m3/boot", "m3/end"):
        finding = Judged(shared, name).group(20)
        assert "0000:08:00.0 on shpchp" in finding.meaning
        assert "/sys/bus/pci/drivers/shpchp/unbind" in finding.decision
    bound = Judged(shared, "m3/end").group(20)
    assert "viable now: no: 0000:08:00.0 on shpchp" in _texts(bound)
    assert bound.intended is True


def test_group_13_is_the_chipset(shared: Path) -> None:
    finding = Judged(shared, "m3/boot").group(13)
    assert "0000:00:1f.0 [0601]" in finding.meaning
    assert finding.intended is False


def test_a_firmware_update_merged_two_groups(shared: Path) -> None:
    dirty = {
        f.subject for f in Judged(shared, "g3b/boot").report.findings if f.code == "GROUP_DIRTY"
    }
    before = {
        f.subject for f in Judged(shared, "g3a/boot").report.findings if f.code == "GROUP_DIRTY"
    }
    assert len(dirty) == len(before) + 1


# --- reset and binding ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("0000:01:00.0", "RESET_SLOT"),
        ("0000:02:00.0", "RESET_FUNCTION"),
        ("0000:03:00.0", "RESET_FUNCTION"),
        ("0000:09:01.0", "RESET_SLOT"),
        ("0000:0b:00.0", "RESET_SLOT"),
        ("0000:0b:00.1", "RESET_SLOT"),
        ("0000:00:08.0", "RESET_NONE"),
    ],
)
@pytest.mark.parametrize("name", ["m3/boot", "k612-m3/boot", "m3/end"])
def test_reset_classes(name: str, address: str, code: str, shared: Path) -> None:
    assert Judged(shared, name).reset(address).code == code


def test_the_graphics_cards_reset_takes_its_audio_along(shared: Path) -> None:
    finding = Judged(shared, "m3/boot").reset("0000:0b:00.0")
    assert "0000:0b:00.0 0000:0b:00.1" in finding.meaning
    assert "below 0000:00:07.0" in _texts(finding)


def test_bindings_made_by_hand_do_not_last(shared: Path) -> None:
    host = Judged(shared, "m3/end")
    bound = host.find("driver-binding", "function:0000:01:00.0")
    assert (bound.verdict, bound.code, bound.intended) == (
        Verdict.WARN,
        "BINDING_NOT_PERSISTENT",
        True,
    )
    idle = Judged(shared, "m3/boot").find("driver-binding", "function:0000:01:00.0")
    assert (idle.code, idle.intended) == ("BINDING_HOST_DRIVER", False)


def test_the_unit_of_the_graphics_card(shared: Path) -> None:
    findings = Judged(shared, "m3/boot").report.findings
    (unit,) = (f for f in findings if f.subject.startswith("unit:gpu-"))
    assert unit.verdict is Verdict.PASS
    assert [e.text.split(" ", 2)[:2] for e in unit.evidence] == [
        ["assign:", "0000:0b:00.0"],
        ["assign:", "0000:0b:00.1"],
    ]


# --- what the tars do not hold -------------------------------------------------------------------


def test_without_mounts_and_interfaces_disks_and_cards_may_be_needed(shared: Path) -> None:
    host = Judged(shared, "m3/boot")
    for address in ("0000:00:1e.0", "0000:02:00.0", "0000:01:00.0"):
        finding = host.find("host-critical", f"function:{address}")
        assert finding.verdict is Verdict.UNKNOWN
        assert finding.missing
    assert host.report.verdict is Verdict.UNKNOWN
