"""Gates of units, from hosts with findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import (
    PCI_BRIDGE,
    audio,
    behind,
    bridge,
    config_space,
    function,
    gpu,
    make_host,
    nic,
    nvme,
    virtual_function,
)
from tests.unit.scheduler.findings import make, passing
from vfio_contract.findings import NODE, Evidence, Verdict
from vfio_contract.host import Host
from vfio_contract.model import Holder, PciFunction
from vfio_coordinator.scheduler.gates import ALLOWS, GATES, PASSING, Gate
from vfio_coordinator.scheduler.index import offer
from vfio_coordinator.scheduler.layout import survey
from vfio_coordinator.scheduler.qualify import qualify, qualify_host, read_proof
from vfio_coordinator.scheduler.standing import Standing

PORT = bridge("0000:00:01.0", group=50)
CARD = behind(PORT, gpu("0000:01:00.0", group=1), audio("0000:01:00.1", group=1))


def host(**changes: Any) -> Host:
    return make_host(*CARD, **changes)


def subjects_of(check: str) -> tuple[str, ...]:
    if check in ("iommu-active", "interrupt-remapping", "cpu-virtualization"):
        return (NODE,)
    if check == "group-isolation":
        return ("group:1",)
    return ("function:0000:01:00.0", "function:0000:01:00.1")


def only(standings: tuple[Standing, ...]) -> Standing:
    (one,) = standings
    return one


def test_a_unit_whose_gates_all_pass_has_a_proof_for_each() -> None:
    made = host()
    found = only(qualify_host(made, passing(made)))
    assert (found.refusing, found.needs, found.busy, found.foreign) == ((), (), None, False)
    assert found.verdict is Verdict.PASS
    assert found.model == "Device 10de:2231"
    proof = read_proof(found.proof, age_s=3.0)
    assert [p.gate for p in proof] == [gate.check for gate in GATES]
    assert all(p.evidence and p.age_s == 3.0 for p in proof)
    critical = next(p for p in proof if p.gate == "host-critical")
    assert [line.split()[0] for line in critical.evidence] == ["0000:01:00.0", "0000:01:00.1"]


every_subject = [(gate, subject) for gate in GATES for subject in subjects_of(gate.check)]


@pytest.mark.parametrize(("gate", "subject"), every_subject)
@pytest.mark.parametrize("verdict", [v for v in Verdict if v not in PASSING] + [None])
def test_each_gate_refuses_on_each_of_its_subjects(
    gate: Gate, subject: str, verdict: Verdict | None
) -> None:
    made = host()
    check = gate.check
    change = None if verdict is None else (verdict, "SOME_CODE")
    found = only(qualify_host(made, passing(made, {(check, subject): change})))
    (refusing,) = found.refusing
    assert (refusing.gate, refusing.stage) == (check, gate.stage)
    assert refusing.verdict is (verdict or Verdict.UNKNOWN)
    assert refusing.code == ("SOME_CODE" if verdict else "EVIDENCE_MISSING")
    assert found.proof == b""
    shown = offer(found, {})
    assert shown.state == ("unfit" if verdict is Verdict.FAIL else "unknown")
    assert shown.why


@pytest.mark.parametrize(("gate", "subject"), every_subject)
@pytest.mark.parametrize("verdict", sorted(PASSING))
def test_each_gate_passes_on_what_passes(gate: Gate, subject: str, verdict: Verdict) -> None:
    made = host()
    check = gate.check
    found = only(qualify_host(made, passing(made, {(check, subject): (verdict, "CODE")})))
    assert not found.refusing
    assert not found.needs


@pytest.mark.parametrize(
    ("check", "code", "stage"),
    [
        ("group-isolation", "ACS_OVERRIDE", "isolation"),
        ("interrupt-remapping", "UNSAFE_INTERRUPTS", "platform"),
        ("reset-history", "RESET_ONE_SHOT", "reset"),
    ],
)
def test_accepted_risks_need_their_word(check: str, code: str, stage: str) -> None:
    made = host()
    subject = subjects_of(check)[0]
    warned = only(qualify_host(made, passing(made, {(check, subject): (Verdict.WARN, code)})))
    assert [(n.word, n.stage) for n in warned.needs] == [(ALLOWS[code], stage)]
    assert warned.proof
    assert offer(warned, {}).state == "unfit"
    failed = only(qualify_host(made, passing(made, {(check, subject): (Verdict.FAIL, code)})))
    assert failed.refusing
    assert not failed.needs


def test_no_findings_at_all_refuse_everything() -> None:
    found = only(qualify_host(host(), ()))
    assert {r.gate for r in found.refusing} == {gate.check for gate in GATES}
    assert found.verdict is Verdict.UNKNOWN


def test_the_worst_of_two_findings_about_one_subject_counts() -> None:
    made = host()
    bad = make("host-critical", "function:0000:01:00.0", Verdict.FAIL, "HOST_CRITICAL")
    for rows in ((*passing(made), bad), (bad, *passing(made))):
        assert only(qualify_host(made, rows)).verdict is Verdict.FAIL


def test_a_node_finding_of_a_device_gate_refuses_every_unit() -> None:
    made = host()
    lost = make("group-isolation", NODE, Verdict.UNKNOWN, "GROUP_UNKNOWN")
    assert only(qualify_host(made, (*passing(made), lost))).verdict is Verdict.UNKNOWN


def held_host() -> Host:
    """A card that shares its group with a bridge on a bus of its own and an SMBus helper."""
    legacy = bridge("0000:02:00.0", group=1, driver="", port_type=PCI_BRIDGE, parent="0000:00:01.0")
    helper = function(
        "0000:01:00.3", class_code=0x0C0500, group=1, driver="", parent="0000:00:01.0"
    )
    return make_host(*CARD, legacy, helper)


def test_held_functions_are_judged_for_the_host_and_not_for_reset() -> None:
    made = held_host()
    (unit,) = survey(made)
    assert unit.hold == ("0000:01:00.3", "0000:02:00.0")
    helper = "function:0000:01:00.3"
    critical = passing(made, {("host-critical", helper): (Verdict.FAIL, "HOST_CRITICAL")})
    assert only(qualify_host(made, critical)).verdict is Verdict.FAIL
    missing = passing(made, {("host-critical", helper): None})
    assert only(qualify_host(made, missing)).verdict is Verdict.UNKNOWN
    unresettable = {
        ("reset-capability", helper): (Verdict.FAIL, "RESET_NONE"),
        ("driver-binding", helper): (Verdict.FAIL, "NOT_BOUND"),
    }
    assert only(qualify_host(made, passing(made, unresettable))).verdict is Verdict.PASS


def test_every_group_of_the_unit_counts() -> None:
    rows = behind(PORT, gpu("0000:01:00.0", group=1), audio("0000:01:00.1", group=2))
    made = make_host(*rows)
    found = passing(made, {("group-isolation", "group:2"): (Verdict.FAIL, "GROUP_DIRTY")})
    assert only(qualify_host(made, found)).refusing[0].stage == "isolation"


@pytest.mark.parametrize("group", [None, -1])
def test_a_function_without_a_group_refuses(group: int | None) -> None:
    rows = (*CARD[:2], replace(CARD[2], group=group))
    made = make_host(*rows)
    found = only(qualify_host(made, passing(made)))
    assert [(r.stage, r.code) for r in found.refusing] == [("isolation", "NO_GROUP")]


def test_holders() -> None:
    qemu = Holder("/dev/vfio/1", 4711, "qemu-system-x86_64")
    made = host(holders=(qemu,))
    found = only(qualify_host(made, passing(made)))
    assert found.foreign
    shown = offer(found, {})
    assert (shown.state, shown.shape.refused) == ("foreign", ("free",))
    assert "4711" in shown.why
    for harmless in ("/dev/vfio/vfio", "/dev/vfio/11", "/dev/vfio/noiommu-1"):
        made = host(holders=(replace(qemu, path=harmless),))
        assert offer(only(qualify_host(made, passing(made))), {}).state == "free"


def test_who_holds_what_must_be_known() -> None:
    made = host(holders=None)
    shown = offer(only(qualify_host(made, passing(made))), {})
    assert (shown.state, shown.shape.refused) == ("unknown", ("free",))


def test_a_device_node_that_is_open_could_be_any_of_the_host() -> None:
    made = host(holders=(Holder("/dev/vfio/devices/vfio0", 1, "qemu"),))
    shown = offer(only(qualify_host(made, passing(made))), {})
    assert (shown.state, shown.shape.refused) == ("unknown", ("free",))


class Claimed:
    vm = "vm1"
    pending = False


def test_a_claim_outranks_whatever_else_is_known() -> None:
    made = host(holders=(Holder("/dev/vfio/1", 1, "qemu"),))
    bad = passing(made, {("iommu-active", NODE): (Verdict.FAIL, "IOMMU_OFF")})
    for rows in (passing(made), bad):
        found = only(qualify_host(made, rows))
        for key in found.layout.keys:
            shown = offer(found, {key: Claimed()})
            assert (shown.state, shown.vm) == ("claimed", "vm1")
            assert "free" in shown.shape.refused


PF = nic("0000:03:00.0", group=3, sriov_total_vfs=8, sriov_num_vfs=0)


def sriov(vfs: int | None, *rows: PciFunction) -> Mapping[str, Standing]:
    made = make_host(replace(PF, sriov_num_vfs=vfs), *rows)
    return {s.layout.primary: s for s in qualify_host(made, passing(made))}


def test_a_pf_with_vfs_is_not_given_and_its_vfs_are() -> None:
    owner = replace(PF, sriov_num_vfs=2)
    rows = [virtual_function(owner, f"0000:03:10.{n}", n, group=10 + n) for n in range(2)]
    found = sriov(2, *rows)
    assert offer(found["0000:03:00.0"], {}).state == "unfit"
    assert offer(found["0000:03:10.0"], {}).state == "free"
    # The VFs themselves are evidence, whatever the count says.
    assert offer(sriov(None, *rows)["0000:03:00.0"], {}).state == "unfit"
    assert offer(sriov(0)["0000:03:00.0"], {}).state == "free"
    assert offer(sriov(None)["0000:03:00.0"], {}).state == "unknown"


def test_a_vf_is_not_given_while_its_pf_is_claimed() -> None:
    owner = replace(PF, sriov_num_vfs=1)
    found = sriov(1, virtual_function(owner, "0000:03:10.0", 0, group=10))
    keys = found["0000:03:00.0"].layout.keys
    shown = offer(found["0000:03:10.0"], {keys[0]: Claimed()})
    assert (shown.state, shown.shape.refused) == ("unfit", ("free",))


def test_the_check_may_say_that_a_pf_has_vfs() -> None:
    made = make_host(PF)
    (unit,) = survey(made)
    rows = passing(made, {("device-functions", f"unit:{unit.id}"): (Verdict.WARN, "PF_HAS_VFS")})
    found = only(qualify_host(made, rows))
    assert offer(found, {}).shape.refused == ("free",)


def test_a_function_is_known_under_its_serial_and_its_place() -> None:
    serial = config_space(flr=True, serial_number="00-11-22-33-44-55-66-77")
    root_only = make_host(nic("0000:01:00.0", group=1, config=serial))
    anyone = make_host(nic("0000:01:00.0", group=1, config=config_space(flr=True)))
    (with_serial,), (without,) = survey(root_only), survey(anyone)
    assert set(without.keys) < set(with_serial.keys)


def test_two_functions_of_one_identity_are_not_given() -> None:
    lost = [nvme(f"0000:0{n}:00.0", group=n, parent=None) for n in (1, 2)]
    made = make_host(*lost)
    for found in qualify_host(made, passing(made)):
        assert offer(found, {}).state == "unknown"


def test_numa_nodes() -> None:
    def numas(*nodes: int | None) -> list[int | None]:
        rows = [nic(f"0000:{n + 1:02x}:00.0", group=n, numa_node=v) for n, v in enumerate(nodes)]
        return [u.numa_node for u in sorted(survey(make_host(*rows)), key=lambda u: u.primary)]

    assert numas(-1, -1) == [-1, -1]
    assert numas(0, 1) == [0, 1]
    assert numas(0, -1) == [0, None]
    assert numas(None, -1) == [None, -1]


def test_the_coordinators_own_reset_history_refuses() -> None:
    made = host()
    (unit,) = survey(made)
    found = only(
        qualify(
            (unit,),
            passing(made),
            holders=(),
            names={},
            condemned={unit.keys[0]: ("RESET_WEDGED", "not ready 65535ms after FLR")},
        )
    )
    assert [(r.stage, r.code) for r in found.refusing] == [("reset", "RESET_WEDGED")]
    assert found.model == "10de:2231"


@pytest.mark.parametrize("agent_knows", [True, False])
@pytest.mark.parametrize("platform", [Verdict.PASS, Verdict.FAIL])
def test_a_wedged_card_is_told_before_what_cannot_be_read_of_it(
    agent_knows: bool, platform: Verdict
) -> None:
    made = host()
    (unit,) = survey(made)
    at = "function:0000:01:00.0"
    line = "vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up"
    rows = passing(
        made,
        {
            ("iommu-active", NODE): (platform, "IOMMU"),
            ("interrupt-remapping", NODE): (Verdict.WARN, "UNSAFE_INTERRUPTS"),
            ("group-isolation", "group:1"): (Verdict.UNKNOWN, "GROUP_UNKNOWN"),
            ("reset-capability", at): (Verdict.UNKNOWN, "RESET_UNKNOWN"),
        },
    )
    if agent_knows:
        evidence = (Evidence("/sys", "an address"), Evidence("kernel log", line))
        told = replace(make("reset-history", at, Verdict.FAIL, "RESET_WEDGED"), evidence=evidence)
        rows = (*(f for f in rows if (f.check, f.subject) != ("reset-history", at)), told)
    known = next(identity for identity, _, address in unit.places if address == unit.primary)
    condemned = {} if agent_knows else {str(known): ("RESET_WEDGED", line)}
    found = only(qualify((unit,), rows, holders=(), names={}, condemned=condemned))
    shown = offer(found, {})
    wedged = f"0000:01:00.0 RESET_WEDGED: power the host off and on; {line}"
    if platform is Verdict.FAIL:
        assert [r.code for r in found.refusing][:2] == ["IOMMU", "RESET_WEDGED"]
        assert shown.shape.refused == ("platform", "reset")
    else:
        assert (shown.why, shown.state) == (wedged, "unfit")
        assert shown.shape.refused == ("reset", "isolation")
        assert shown.shape.needs == (), "no risk that anybody could accept is in the way"
    assert [r.reason for r in found.refusing if r.code == "RESET_WEDGED"] == [wedged]


@pytest.mark.parametrize(
    ("check", "subject", "evidence", "reason", "told"),
    [
        (
            "iommu-active",
            NODE,
            Evidence("/sys/class/iommu", "empty"),
            "WHY: /sys/class/iommu: empty",
            "/sys/class/iommu: empty",
        ),
        (
            "group-isolation",
            "group:1",
            Evidence("/sys", "0000:00:02.0 a port"),
            "group 1 WHY: 0000:00:02.0 a port",
            "group 1: 0000:00:02.0 a port",
        ),
        (
            "driver-binding",
            "function:0000:01:00.0",
            Evidence("/sys", "0000:01:00.0 a card, driver igb"),
            "0000:01:00.0 WHY: 0000:01:00.0 a card, driver igb",
            "0000:01:00.0 a card, driver igb",
        ),
        (
            "reset-history",
            "function:0000:01:00.0",
            Evidence("kernel log", "timed out"),
            "0000:01:00.0 WHY: timed out",
            "0000:01:00.0: timed out",
        ),
    ],
)
def test_a_reason_says_where_and_what_was_seen_and_the_code_once(
    check: str, subject: str, evidence: Evidence, reason: str, told: str
) -> None:
    made = host()
    shown = replace(make(check, subject, Verdict.FAIL, "WHY"), evidence=(evidence,))
    rows = [f for f in passing(made) if (f.check, f.subject) != (check, subject)]
    (row,) = only(qualify_host(made, (*rows, shown))).refusing
    assert (row.reason, row.told) == (reason, told)


def test_a_reason_without_a_code_is_told_as_it_is() -> None:
    made = host()
    rows = [f for f in passing(made) if f.check != "iommu-active"]
    (row,) = only(qualify_host(made, rows)).refusing
    assert row.told == row.reason == "node no iommu-active finding"
