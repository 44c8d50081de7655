"""The catalogue: its order, what blocks what, its codes and what `explain` finds in them."""

import pytest

from tests.fakes.snapshots import make_host, make_log, nic, silent_host
from tests.unit.checks.lookup import find
from vfio_agent.checks import (
    BLOCKED,
    CATALOGUE,
    Check,
    checks_version,
    explain,
    judge,
    list_codes,
)
from vfio_contract.codes import CLUSTER_CODES, Code
from vfio_contract.findings import Verdict, severity
from vfio_contract.model import NO_GROUP

OFF = make_host(
    nic("0000:01:00.0", group=NO_GROUP),
    iommu_units=(),
    groups=(),
    kernel_log=make_log("DMAR: IOMMU disabled"),
    interrupt_chips=("IO-APIC",),
)

VM_CHECKS = {c.id for c in CATALOGUE if c.id.startswith("vm-")}


def test_the_ids_of_this_step_in_the_order_of_the_guide() -> None:
    assert [c.id for c in CATALOGUE] == [
        "cpu-virtualization",
        "iommu-active",
        "kernel-cmdline",
        "interrupt-remapping",
        "vfio-modules",
        "acs-override",
        "memory-headroom",
        "host-contention",
        "interrupt-distribution",
        "iommu-faults",
        "device-functions",
        "group-isolation",
        "host-critical",
        "reset-capability",
        "reset-history",
        "driver-binding",
        "device-holders",
        "sriov",
        "bar-and-rom",
        "reserved-regions",
        "device-health",
        "vm-machine",
        "vm-functions",
        "vm-cpu",
        "vm-guest-driver",
        "vm-memory",
        "vm-display-rom",
    ]
    assert {c.id for c in CATALOGUE if c.gates} == {
        "cpu-virtualization",
        "iommu-active",
        "interrupt-remapping",
        "group-isolation",
        "host-critical",
        "reset-capability",
        "reset-history",
        "driver-binding",
    }


def test_blockers_come_first_and_exist() -> None:
    seen: set[str] = set()
    for check in CATALOGUE:
        assert set(check.blocked_by) <= seen, check.id
        seen.add(check.id)


def test_iommu_off_blocks_groups_and_bindings_and_nothing_else() -> None:
    report = judge(OFF)
    blocked = {f.check: f for f in report.findings if f.verdict is Verdict.BLOCKED}
    assert set(blocked) == {"group-isolation", "driver-binding", "reserved-regions", *VM_CHECKS}
    for check, finding in blocked.items():
        assert [f.subject for f in report.findings if f.check == check] == ["node"]
        assert finding.blocked_by == "iommu-active"
        assert finding.code == BLOCKED.name
        assert "iommu-active" in finding.decision


def test_interrupt_remapping_blocks_nothing() -> None:
    report = judge(make_host(nic("0000:01:00.0"), interrupt_chips=("IO-APIC",)))
    assert not [f for f in report.findings if f.verdict is Verdict.BLOCKED]
    assert report.verdict is Verdict.FAIL


def test_one_function_without_a_group_blocks_nobody() -> None:
    host = make_host(nic("0000:01:00.0"), nic("0000:02:00.0", group=NO_GROUP))
    report = judge(host)
    assert (
        find(
            (f for f in report.findings if f.check == "iommu-active"), "function:0000:02:00.0"
        ).verdict
        is Verdict.FAIL
    )
    assert not [f for f in report.findings if f.verdict is Verdict.BLOCKED]


def test_unknown_does_not_block() -> None:
    report = judge(silent_host())
    assert {f.verdict for f in report.findings} == {Verdict.UNKNOWN}
    assert (report.verdict, report.exit_code) == (Verdict.UNKNOWN, 3)
    assert report.missing


def test_a_healthy_host_passes_with_exit_code_0() -> None:
    report = judge(make_host(nic("0000:01:00.0")))
    others = {f.verdict for f in report.findings if f.check not in VM_CHECKS}
    assert others == {Verdict.PASS, Verdict.NOT_APPLICABLE}
    unused = {f.check for f in report.findings if f.verdict is Verdict.NOT_APPLICABLE} - VM_CHECKS
    assert unused == {"interrupt-distribution", "sriov"}
    assert {f.code for f in report.findings if f.check in VM_CHECKS} == {"NO_PASSTHROUGH_VMS"}
    assert (report.verdict, report.exit_code) == (Verdict.PASS, 0)


def test_candidates_do_not_move_the_verdict_and_intended_devices_do() -> None:
    candidate = nic("0000:02:00.0", group=2, driver="", device=0x1521)
    report = judge(make_host(nic("0000:01:00.0"), candidate))
    assert report.verdict is Verdict.PASS
    assert [f.code for f in report.findings if f.verdict is Verdict.FAIL] == ["NOT_BOUND"]
    report = judge(make_host(nic("0000:01:00.0"), candidate, claimed=["0000:02:00.0"]))
    assert report.verdict is Verdict.FAIL


def test_worst_first() -> None:
    ranks = [severity(f.verdict) for f in judge(OFF).findings]
    assert ranks == sorted(ranks, reverse=True)


# --- codes ---------------------------------------------------------------------------------------


def test_a_code_name_means_one_thing() -> None:
    names = [code.name for code in list_codes()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("code", list_codes(), ids=lambda code: code.name)
def test_codes_speak(code: Code) -> None:
    assert code.name == code.name.upper()
    for text in (code.evidence, code.meaning, code.decision):
        assert text == " ".join(text.split())
        assert len(text.split()) >= 2


@pytest.mark.parametrize("check", CATALOGUE, ids=lambda check: check.id)
def test_checks_state_evidence_meaning_and_source(check: Check) -> None:
    assert check.codes
    assert check.title.endswith("?")
    for word in ("Evidence:", "Meaning:", "Source:", f"step {check.step}"):
        assert word in check.explanation


def test_explain_finds_checks_and_codes_in_any_case() -> None:
    assert explain("IOMMU-active") is CATALOGUE[1]
    found = explain("group_dirty")
    assert isinstance(found, Code)
    assert found.verdict is Verdict.FAIL
    assert explain("GROUP_WIDENED") in CLUSTER_CODES
    assert explain("blocked") is BLOCKED
    assert explain("no-such-thing") is None


def test_the_version_is_stable_within_a_release() -> None:
    assert checks_version() == checks_version()
    assert len(checks_version()) == 16
