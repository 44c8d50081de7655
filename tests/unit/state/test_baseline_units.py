"""A baseline shows its units where they were then, and vouches for those that passed alone."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.state.cluster import Cluster
from tests.unit.state.hosts import accepted, agent, cards, reboot
from vfio_contract.address import parse_address
from vfio_contract.findings import Verdict
from vfio_contract.views import BaselineView
from vfio_coordinator.state.baseline_report import baseline_view

CARD = "function:0000:01:00.0"


def test_units_of_a_baseline_stay_where_they_were() -> None:
    cluster, one = accepted(*cards(2))
    before = [unit.addresses for unit in baseline_view(cluster.state, "pve01").intended_units]
    moved = tuple(
        replace(f, address=parse_address(f.address.replace("0000:0", "0000:4"))) if f.parent else f
        for f in cards(2)
    )
    view = reboot(cluster, one, *moved)
    assert {change.code for change in view.drift} == {"DEVICE_MOVED"}
    after = [unit.addresses for unit in baseline_view(cluster.state, "pve01").intended_units]
    assert after == before


def test_a_unit_that_failed_is_not_vouched_for() -> None:
    cluster = Cluster()
    one = agent("pve01", *cards(2))
    one.replaced = {("reset-capability", CARD): (Verdict.FAIL, "RESET_NONE")}
    cluster.join(one)
    view = cluster.accept(BaselineView, "pve01", force=True, reason="lab only")
    assert len(view.intended_units) == 2
    assert len(view.passed) == 1
    assert set(view.passed) < {unit.id for unit in view.intended_units}
    row = next(e for e in cluster.state.log.values() if e.code == "BASELINE_ACCEPTED")
    assert "1 unit passes every gate" in row.text
