"""Units that passed at the baseline and do not now: what cordons, what waits, what lifts it."""

from __future__ import annotations

from tests.unit.state.cluster import ask_for
from tests.unit.state.hosts import accepted, cards, graphics, owners, reboot
from vfio_contract.findings import Verdict
from vfio_contract.views import Decision
from vfio_coordinator.state.events import Heartbeat


def test_a_regression_cordons_and_lifts() -> None:
    cluster, one = accepted(*cards(2))
    one.replaced = {("reset-history", "function:0000:01:00.0"): (Verdict.FAIL, "RESET_FAILED")}
    cluster.observe(one)
    view = cluster.view("pve01")
    assert (view.state, owners(view)) == ("cordoned", ["auto:RESET_FAILED"])
    one.replaced = {}
    cluster.observe(one)
    assert cluster.view("pve01").state == "ready"


def test_a_one_shot_device_that_was_used_is_as_expected() -> None:
    cluster, one = accepted(*cards(2))
    one.replaced = {("reset-history", "function:0000:01:00.0"): (Verdict.FAIL, "RESET_SPENT")}
    cluster.observe(one)
    view = cluster.view("pve01")
    assert (view.state, view.units_free) == ("ready", 1)
    assert [unit.state for unit in view.units] == ["unfit", "free"]


def test_unknown_is_no_regression_and_not_healthy() -> None:
    cluster, one = accepted(*cards(2))
    one.replaced = {("reset-history", "function:0000:01:00.0"): (Verdict.UNKNOWN, "X_UNKNOWN")}
    cluster.observe(one)
    view = cluster.view("pve01")
    assert view.state == "revalidating"
    assert view.verdict is Verdict.UNKNOWN
    assert cluster.place(Decision, ask_for("vm1")).placement is None
    one.replaced = {}
    cluster.observe(one)
    assert cluster.view("pve01").state == "ready"


def test_a_cordon_for_a_failure_stays_while_it_is_unknown() -> None:
    cluster, one = accepted(*cards(2))
    key = ("reset-history", "function:0000:01:00.0")
    one.replaced = {key: (Verdict.FAIL, "RESET_FAILED")}
    cluster.observe(one)
    one.replaced = {key: (Verdict.UNKNOWN, "HISTORY_UNKNOWN")}
    cluster.observe(one)
    assert owners(cluster.view("pve01"))[0] == "auto:RESET_FAILED"


def test_a_new_version_of_the_checks_only_records_anew() -> None:
    cluster, one = accepted(*cards(2))
    key = ("reset-capability", "function:0000:01:00.0")
    one.checks, one.replaced = "checks-2", {key: (Verdict.FAIL, "RESET_NONE")}
    cluster.observe(one)
    view = cluster.view("pve01")
    assert (view.state, view.units_free) == ("ready", 1)
    assert "BASELINE_RECHECKED" in cluster.codes("pve01")
    other = ("reset-capability", "function:0000:02:00.0")
    one.replaced = {key: (Verdict.FAIL, "RESET_NONE"), other: (Verdict.FAIL, "RESET_NONE")}
    cluster.observe(one)
    assert cluster.view("pve01").state == "cordoned"


def test_a_new_version_of_the_checks_does_not_hide_a_known_regression() -> None:
    cluster, one = accepted(*cards(2))
    key = ("reset-history", "function:0000:01:00.0")
    one.replaced = {key: (Verdict.FAIL, "RESET_FAILED")}
    cluster.observe(one)
    one.checks = "checks-2"
    cluster.observe(one)
    cluster.observe(one)
    assert owners(cluster.view("pve01")) == ["auto:RESET_FAILED"]


def test_a_new_boot_with_a_regression_is_not_validated() -> None:
    cluster, one = accepted(*graphics(1, group=1))
    one.replaced = {("group-isolation", "group:1"): (Verdict.FAIL, "GROUP_DIRTY")}
    view = reboot(cluster, one, *graphics(1, group=1))
    assert view.state == "cordoned"
    node = cluster.state.nodes["pve01"]
    assert node.admin is not None
    assert node.admin.boot_id != one.boot_id
    cluster.send(Heartbeat("pve01", one.session))
    one.replaced = {}
    cluster.observe(one)
    assert cluster.view("pve01").state == "ready"
