"""A card that tells its serial number no more is the same unit: to its baseline and to its claim.

A unit's id is made of its serial number where that names one board. What died or sleeps tells none,
and one that stands on two boards names neither; what passed then and what is claimed stay.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.snapshots import behind, bridge, config_space, nic
from tests.unit.state.cluster import Agent, Cluster, ask_for
from tests.unit.state.hosts import accepted, owners, reboot
from vfio_contract.baseline_views import BaselineRefusal
from vfio_contract.findings import Verdict
from vfio_contract.model import PciFunction
from vfio_contract.views import BaselineView, Decision, NodeView
from vfio_coordinator.state import report
from vfio_coordinator.state.baseline_report import baseline_view
from vfio_coordinator.state.vm_report import vm_views

FIRST, SECOND = "a0-36-9f-ff-ff-12-34-56", "a0-36-9f-ff-ff-65-43-21"
CARD = "0000:02:00.0"
FAILED = {("reset-capability", f"function:{CARD}"): (Verdict.FAIL, "RESET_NONE")}
UNKNOWN = {("reset-history", f"function:{CARD}"): (Verdict.UNKNOWN, "HISTORY_UNKNOWN")}


def card(bus: int, serial: str, *, dead: bool = False) -> tuple[PciFunction, ...]:
    """One on that bus, below a port of its own; a dead one's configuration space reads as ff."""
    config = config_space(flr=True, serial_number=serial)
    if dead:
        config = replace(config, dead=True, header_type=None, serial_number=None, extended=None)
    below = nic(f"0000:{bus:02x}:00.0", group=bus, config=config)
    return behind(bridge(f"0000:00:{bus:02x}.0", group=100 + bus), below)


HEALTHY = (*card(1, FIRST), *card(2, SECOND))
DEAD = (*card(1, FIRST), *card(2, SECOND, dead=True))
SHARED = (*card(1, SECOND), *card(2, SECOND))


@pytest.fixture
def claimed() -> tuple[Cluster, Agent]:
    """Two cards whose serials are known, both passed, the second is a VM's."""
    cluster, one = accepted(*HEALTHY)
    decision = cluster.place(Decision, ask_for("train-9"))
    assert decision.placement is not None
    assert decision.placement.units[0].assign == (CARD,)
    return cluster, one


def risk_of(cluster: Cluster) -> str:
    (view,) = vm_views(cluster.state, cluster.now)
    return view.at_risk


def test_what_passed_with_a_serial_and_fails_without_one_has_regressed(
    claimed: tuple[Cluster, Agent],
) -> None:
    cluster, one = claimed
    one.replaced = FAILED
    view = reboot(cluster, one, *DEAD)

    assert (view.state, owners(view)[0]) == ("cordoned", "auto:RESET_NONE")
    assert "affects train-9" in view.reasons[0].text
    assert risk_of(cluster).startswith("RESET_NONE")
    # one cause before and after the serial comes back
    one.snapshot = replace(one.snapshot, facts=replace(one.snapshot.facts, functions=HEALTHY))
    cluster.join(one)
    assert owners(cluster.view("pve01"))[0] == "auto:RESET_NONE"
    one.replaced = {}
    cluster.observe(one)
    assert cluster.view("pve01").state == "ready"


def test_what_passed_with_a_serial_and_cannot_be_judged_without_one_is_waited_for(
    claimed: tuple[Cluster, Agent],
) -> None:
    cluster, one = claimed
    one.replaced = UNKNOWN
    view = reboot(cluster, one, *DEAD)

    assert view.state == "revalidating"
    assert any("passed at the baseline and cannot be judged" in r.text for r in view.reasons)


def test_new_checks_keep_what_passed_under_the_ids_of_what_was_accepted(
    claimed: tuple[Cluster, Agent],
) -> None:
    cluster, one = claimed
    before = accepted_units(cluster)
    reboot(cluster, one, *DEAD)
    one.checks = "checks-2"
    cluster.join(one)

    assert accepted_units(cluster) == before
    one.replaced = FAILED
    cluster.observe(one)
    assert owners(cluster.view("pve01"))[0] == "auto:RESET_NONE"


def accepted_units(cluster: Cluster) -> tuple[str, ...]:
    baseline = cluster.state.nodes["pve01"].baseline
    assert baseline is not None
    return baseline.record.passed


def test_a_claim_is_explained_by_the_card_that_it_names(claimed: tuple[Cluster, Agent]) -> None:
    cluster, one = claimed
    one.replaced = FAILED
    reboot(cluster, one, *DEAD)

    decision, _ = report.explain(cluster.state, "train-9", cluster.now)
    assert decision.placement is not None
    (unit,) = decision.placement.units
    assert {proof.code for proof in unit.proof} >= {"RESET_NONE"}


def test_a_baseline_shows_its_units_under_their_ids_as_they_are_now(
    claimed: tuple[Cluster, Agent],
) -> None:
    cluster, one = claimed
    reboot(cluster, one, *DEAD)

    shown = baseline_view(cluster.state, "pve01")
    assert {unit.id for unit in shown.intended_units} == set(shown.passed)
    assert {unit.vm for unit in shown.intended_units} == {"", "train-9"}


def test_a_unit_s_first_address_is_that_of_the_function_it_is_named_after() -> None:
    controller = nic("0000:00:14.0", group=1, class_code=0x0C0330)
    cluster, _ = accepted(*card(1, FIRST), controller)
    (unit,) = cluster.view("pve01").units
    assert (unit.kind, unit.addresses) == ("nic", ("0000:01:00.0", "0000:00:14.0"))


# --- one serial number on two boards ------------------------------------------------------------


def waiting(view: NodeView) -> list[str]:
    return [r.text for r in view.reasons if r.code == "EVIDENCE_LOST"]


def test_a_serial_that_a_second_board_shows_holds_the_node(claimed: tuple[Cluster, Agent]) -> None:
    """Which of them is the VM's, nobody can tell."""
    cluster, one = claimed
    view = reboot(cluster, one, *SHARED)

    assert view.state == "revalidating"
    (text,) = waiting(view)
    assert f"serial number (two boards have it now) of {CARD}" in text
    refused = cluster.accept(BaselineRefusal, "pve01")
    assert "EVIDENCE_LOST" in {problem.code for problem in refused.problems}
    cluster.accept(BaselineView, "pve01", force=True, reason="labels compared")
    assert cluster.view("pve01").state == "ready"


def test_a_serial_that_is_not_told_this_time_holds_nothing() -> None:
    """A card that sleeps is found by its place."""
    cluster, one = accepted(*HEALTHY)
    asleep = tuple(replace(f, config=None) if f.address == CARD else f for f in HEALTHY)
    assert reboot(cluster, one, *asleep).state == "ready"
