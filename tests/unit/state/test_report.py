"""The status screen's numbers, health lines, and views of nodes and events."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.scheduler.findings import make
from tests.unit.state.cluster import Agent, Cluster, ask_for
from tests.unit.state.hosts import accepted, agent, cards, graphics, reboot
from vfio_agent.checks import list_codes
from vfio_contract.codes import Code
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.model import Holder
from vfio_contract.views import BaselineView, Decision, HealthItem, NodeView, VmView
from vfio_coordinator.state import report
from vfio_coordinator.state.baseline_report import baseline_view
from vfio_coordinator.state.model import Limits
from vfio_coordinator.state.risk_report import decision_text

Counts = dict[str, tuple[int, int, int, int, int, int]]


def status_of(cluster: Cluster) -> tuple[str, Counts, tuple[HealthItem, ...]]:
    shown = report.status(cluster.state, cluster.now, coordinator="co1")
    rows = {
        u.kind: (u.total, u.free, u.claimed, u.foreign, u.unfit, u.unknown) for u in shown.units
    }
    assert shown.coordinator == "co1"
    return shown.health, rows, shown.items


def test_since_is_the_node_s_own_and_survives_a_restart() -> None:
    cluster = Cluster()
    agents = [agent(name, *graphics(1, group=1)) for name in ("pve01", "pve02", "pve03")]
    cluster.join(*agents)
    apart = tuple(
        replace(f, group=2) if f.address.endswith(".1") else f for f in graphics(1, group=1)
    )
    wide = (*graphics(1, group=1), *cards(1, first_bus=4))
    began = {}
    for one, functions in zip(agents, (apart, apart, wide), strict=True):
        cluster.accept(BaselineView, one.name)
        cluster.wait(1.0)
        began[one.name] = cluster.now.utc
        reboot(cluster, one, *functions)
    assert len(set(began.values())) == 3

    def since(name: str, code: str) -> set[str]:
        return {r.since for r in cluster.view(name).reasons if r.code == code}

    (item,) = [i for i in status_of(cluster)[2] if i.code == "GROUP_SPLIT"]
    assert item.since == began["pve01"], "a line of health has that of the first node"
    for _ in range(2):
        assert since("pve01", "GROUP_SPLIT") == {began["pve01"]}
        assert since("pve02", "GROUP_SPLIT") == {began["pve02"]}
        assert since("pve03", "DEVICE_APPEARED") == {""}, "of a flag none is kept"
        cluster.restart()
        cluster.join(*agents)


def test_an_empty_cluster_is_healthy() -> None:
    assert status_of(Cluster()) == ("HEALTH_OK", {}, ())


def test_units_are_counted_once_and_add_up() -> None:
    cluster = Cluster()
    rows = (*cards(4), *graphics(10, group=10))
    one = agent("pve01", *rows)
    held = (Holder("/dev/vfio/2", 9, "qemu"),)
    one.snapshot = replace(one.snapshot, readings=replace(one.snapshot.readings, holders=held))
    one.replaced = {
        ("reset-history", "function:0000:03:00.0"): (Verdict.FAIL, "RESET_WEDGED"),
        ("driver-binding", "function:0000:04:00.0"): (Verdict.UNKNOWN, "BINDING_UNKNOWN"),
    }
    cluster.join(one)
    cluster.place(Decision, ask_for("vm1", "gpu"))
    _, units, _ = status_of(cluster)
    assert units == {"gpu": (1, 0, 1, 0, 0, 0), "nic": (4, 1, 0, 1, 1, 1)}
    view = cluster.view("pve01")
    assert (view.units_total, view.units_free) == (5, 1)


def test_candidates_are_listed_and_not_counted() -> None:
    cluster = Cluster()
    rows = tuple(replace(f, driver="igb", vfio_device=False) if f.parent else f for f in cards(2))
    one = agent("pve01", *rows)
    one.replaced = {
        ("driver-binding", f"function:0000:0{n}:00.0"): (Verdict.FAIL, "NOT_BOUND") for n in (1, 2)
    }
    cluster.join(one)
    view = cluster.view("pve01")
    assert [(u.intended, u.state) for u in view.units] == [(False, "unfit")] * 2
    assert view.units_total == 0
    assert status_of(cluster)[:2] == ("HEALTH_OK", {})


def test_a_cordoned_node_has_nothing_free_and_a_lost_one_nothing_known() -> None:
    cluster = Cluster(limits=Limits(lost_after_s=10, reconnect_window_s=0))
    cluster.join(agent("pve01"), agent("pve02"))
    cluster.cordon(NodeView, "pve01", reason="fan")
    assert status_of(cluster)[1] == {"nic": (4, 2, 0, 0, 2, 0)}
    assert "fan" in cluster.view("pve01").units[0].why
    cluster.wait(20)
    assert status_of(cluster)[1] == {"nic": (4, 0, 0, 0, 0, 4)}


def test_health_lines_are_grouped_worst_first_and_say_what_to_do() -> None:
    cluster = Cluster(limits=Limits(lost_after_s=10, reconnect_window_s=0))
    for name in ("pve01", "pve02", "pve03", "pve04"):
        one = agent(name)
        one.replaced = {("group-isolation", "group:1"): (Verdict.WARN, "ACS_OVERRIDE")}
        cluster.join(one)
    bad = agent("pve05")
    bad.replaced = {("iommu-active", "node"): (Verdict.FAIL, "IOMMU_OFF")}
    cluster.join(bad)
    cluster.cordon(NodeView, "pve01", reason="fan")
    health, _, items = status_of(cluster)
    assert health == "HEALTH_ERR"
    assert [(i.level, i.code, i.scope) for i in items] == [
        ("ERR", "IOMMU_OFF", "1 node"),
        ("WARN", "ACS_OVERRIDE", "4 nodes"),
        ("WARN", "NODE_CORDONED", "1 node"),
    ]
    assert items[1].text.startswith("pve01 pve02 pve03 and 1 more: ")
    assert all(item.next.startswith("vfioctl ") for item in items)
    cluster.wait(20)
    _, _, items = status_of(cluster)
    assert (items[0].level, items[0].code, items[0].scope) == ("ERR", "NODE_LOST", "5 nodes")


def test_what_is_not_known_is_one_line_below_all_that_is_known() -> None:
    cluster, one = accepted(*cards(2))
    reboot(cluster, one, *cards(2), bios="F11")
    for name in ("pve02", "pve03", "pve04"):
        other = agent(name)
        other.replaced = {
            ("iommu-active", "node"): (Verdict.UNKNOWN, "IOMMU_UNKNOWN"),
            ("group-isolation", "group:1"): (Verdict.UNKNOWN, "GROUP_UNKNOWN"),
            ("reset-capability", "function:0000:01:00.0"): (Verdict.WARN, "RESET_BUS_ONLY"),
        }
        if name == "pve03":
            key = ("reset-history", "function:0000:02:00.0")
            other.replaced[key] = (Verdict.UNKNOWN, "HISTORY_UNKNOWN")
        cluster.join(other)
    _, _, items = status_of(cluster)
    assert [(i.level, i.code, i.scope) for i in items] == [
        ("WARN", "FIRMWARE_CHANGED", "1 node"),
        ("WARN", "RESET_BUS_ONLY", "3 nodes"),
        ("WARN", "UNKNOWN", "3 nodes"),
    ]
    assert items[-1].text == "3 codes: GROUP_UNKNOWN, IOMMU_UNKNOWN, HISTORY_UNKNOWN"
    assert items[-1].next == "vfioctl check --node pve03"


def test_one_code_that_is_not_known_keeps_its_evidence() -> None:
    cluster = Cluster()
    one = agent("pve01")
    one.replaced = {("iommu-active", "node"): (Verdict.UNKNOWN, "IOMMU_UNKNOWN")}
    cluster.join(one)
    (item,) = status_of(cluster)[2]
    assert (item.code, item.next) == ("IOMMU_UNKNOWN", "vfioctl check --node pve01")
    assert item.text == "pve01: /evidence/iommu-active: node is UNKNOWN"


def test_the_evidence_of_one_node_never_stands_as_that_of_several() -> None:
    cluster = Cluster()
    for name, bus in (("pve01", 2), ("pve02", 1), ("pve03", 1)):
        one = agent(name)
        key = ("reset-history", f"function:0000:0{bus}:00.0")
        one.replaced = {key: (Verdict.FAIL, "RESET_WEDGED")}
        cluster.join(one)
    (item,) = status_of(cluster)[2]
    assert item.text == "INC-1, 00:16: pve01 pve02 pve03; pve01: 0000:02:00.0"
    cluster.close(one)
    cluster.join(agent("pve01"))
    cluster.join(one)
    (item,) = status_of(cluster)[2]
    assert item.text == "INC-1, 00:16: pve02 pve03: 0000:01:00.0"


def test_a_baseline_is_compared_with_evidence_of_now_only() -> None:
    cluster, one = accepted(*cards(2))
    view = baseline_view(cluster.state, "pve01")
    assert (view.compared, view.why, view.drift) == (True, "", ())
    reboot(cluster, one, *cards(2), bios="F11")
    cluster.close(one)
    view = baseline_view(cluster.state, "pve01")
    assert (view.compared, [d.code for d in view.drift]) == (False, ["FIRMWARE_CHANGED"])
    assert view.why.startswith("heard ")
    cluster.restart()
    view = baseline_view(cluster.state, "pve01")
    assert (view.compared, view.drift) == (False, ())
    assert view.why == "not heard since the coordinator's start"


@pytest.mark.parametrize("code", list_codes(), ids=lambda code: code.name)
def test_no_finding_of_a_node_points_below_to_what_only_the_node_lists(code: Code) -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    node = cluster.state.nodes["pve01"]
    finding = replace(make("iommu-active", "node", Verdict.UNKNOWN, "X"), decision=code.decision)
    text = decision_text(node, finding)
    assert "evidence below" not in text
    assert ("n the node: sudo vfioctl " in text) == ("missing evidence below" in code.decision)


def test_findings_of_a_silent_node_are_no_health_lines() -> None:
    cluster = Cluster()
    bad = agent("pve01")
    bad.replaced = {("iommu-active", "node"): (Verdict.FAIL, "IOMMU_OFF")}
    cluster.join(bad)
    cluster.close(bad)
    assert [i.code for i in status_of(cluster)[2]] == ["NODE_UNHEARD"]


def test_of_one_state_the_worst_verdict_comes_first() -> None:
    cluster = Cluster()
    worse = {"c-fails": Verdict.FAIL, "b-unknown": Verdict.UNKNOWN, "d-warns": Verdict.WARN}
    for name in ("a-passes", *worse):
        one = agent(name)
        if name in worse:
            one.replaced = {("driver-binding", "function:0000:01:00.0"): (worse[name], "NOT_BOUND")}
        cluster.join(one)
    rows = [(v.state, v.name) for v in report.node_views(cluster.state, cluster.now)]
    names = ("c-fails", "b-unknown", "d-warns", "a-passes")
    assert rows == [("ready", name) for name in names]


def test_nodes_come_worst_first() -> None:
    cluster = Cluster(limits=Limits(lost_after_s=10, reconnect_window_s=0))
    lost = agent("b-lost")
    cluster.join(agent("a-ready"), lost, agent("z-cordoned"), agent("y-cordoned"))
    cluster.cordon(NodeView, "z-cordoned")
    cluster.cordon(NodeView, "y-cordoned")
    cluster.hello(agent("c-new"))
    cluster.close(lost)
    cluster.seconds += 5
    for name in ("a-ready", "y-cordoned", "z-cordoned", "c-new"):
        session = cluster.state.nodes[name].session
        assert session is not None
        one = Agent(name, agent(name).snapshot, session=session.id, sequence=1)
        if name != "c-new":
            cluster.observe(one)
    cluster.wait(6)
    rows = [(v.state, v.name) for v in report.node_views(cluster.state, cluster.now)]
    assert rows == [
        ("lost", "b-lost"),
        ("lost", "c-new"),
        ("cordoned", "y-cordoned"),
        ("cordoned", "z-cordoned"),
        ("ready", "a-ready"),
    ]


def test_a_node_view_with_detail() -> None:
    cluster = Cluster()
    one = agent("pve01")
    one.replaced = {("reset-history", "function:0000:01:00.0"): (Verdict.FAIL, "RESET_WEDGED")}
    cluster.join(one)
    view = cluster.view("pve01")
    assert [(f.code, f.intended) for f in view.findings] == [("RESET_WEDGED", True)]
    assert view.findings[0].evidence[0].startswith("/evidence/reset-history: ")
    assert (view.verdict, view.kernel, view.firmware) == (
        Verdict.FAIL,
        "6.12.0-1-amd64",
        "F10 01/01/2025",
    )
    assert view.agent == "0.1.0"
    short = report.node_view(cluster.state, "pve01", cluster.now, detail=False)
    assert (short.units, short.findings, short.drift) == ((), (), ())
    cluster.seconds += 3
    assert cluster.view("pve01").heard_age_s == 3.0
    assert cluster.view("pve01").evidence_age_s == 3.0


def test_evidence_is_as_old_as_its_collection() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.hello(one)
    cluster.inventory(one)
    cluster.observe(one, age_s=7.0)
    assert cluster.view("pve01").evidence_age_s == 7.0


def test_names_that_fit_several_or_none() -> None:
    cluster = Cluster()
    cluster.join(agent("pve01"), agent("pve02"))
    for text, code in (
        ("pve", ErrorCode.BAD_REQUEST),
        ("x", ErrorCode.UNKNOWN_NODE),
        ("", ErrorCode.UNKNOWN_NODE),
    ):
        with pytest.raises(ClusterError) as refused:
            report.find_node(cluster.state, text)
        assert refused.value.code is code
    cluster.join(agent("pve"))
    assert report.find_node(cluster.state, "pve") == "pve"
    assert report.find_node(cluster.state, "pve02") == "pve02"


def test_questions_about_nothing() -> None:
    cluster = Cluster()
    cluster.join(agent("pve01"))
    with pytest.raises(ClusterError) as refused:
        baseline_view(cluster.state, "pve01")
    assert refused.value.code is ErrorCode.NO_BASELINE
    with pytest.raises(ClusterError) as refused:
        report.explain(cluster.state, "vm1", cluster.now)
    assert refused.value.code is ErrorCode.UNKNOWN_VM


def test_events_come_in_order_and_in_parts() -> None:
    cluster = Cluster()
    cluster.join(agent("pve01"), agent("pve02"))
    rows, last = report.list_events(cluster.state)
    assert [row.seq for row in rows] == sorted({row.seq for row in rows})
    assert rows[-1].seq == last
    first, _ = report.list_events(cluster.state, limit=2)
    assert first == rows[:2]
    rest, _ = report.list_events(cluster.state, after_seq=first[-1].seq)
    assert (*first, *rest) == rows
    one, _ = report.list_events(cluster.state, node="pve02")
    assert {row.subject for row in one} == {"node:pve02"}
    assert all(row.actor and row.at and row.text for row in rows)


def test_a_vm_says_what_it_is() -> None:
    cluster = Cluster()
    cluster.join(agent("pve01"))
    request = ask_for("vm1", "nic:device=2", same_numa=True, external=True)
    cluster.place(Decision, request)
    (vm,) = report.vm_views(cluster.state, cluster.now)
    assert set(vm.addresses) == {"0000:01:00.0", "0000:02:00.0"}
    assert len(set(vm.units)) == 2
    assert replace(vm, units=(), addresses=(), at="") == VmView(
        name="vm1",
        node="pve01",
        generation=1,
        token=(1 << 32) + 1,
        state="reserved",
        kind="external",
        units=(),
        addresses=(),
        at_risk="",
        requested="nic:device=2 same-numa",
        owner="user:ann",
        at="",
    )
