"""Placement against a brute-force oracle, and what must hold of any decision."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from random import Random

from hypothesis import event, given
from hypothesis import strategies as st

from tests.unit.scheduler.fleet import (
    MOMENT,
    Spec,
    entries,
    entry,
    index_of,
    request,
    requests,
    specs,
)
from vfio_contract.findings import Verdict
from vfio_contract.views import DeviceRequest, Placement, PlaceRequest, Refusal
from vfio_coordinator.scheduler.gates import ALLOWS, GATES, STAGES
from vfio_coordinator.scheduler.index import Entry, remove
from vfio_coordinator.scheduler.place import place
from vfio_coordinator.scheduler.risk import RiskDecision
from vfio_coordinator.scheduler.standing import Offer


def placed(found: Placement | Refusal) -> Placement:
    assert isinstance(found, Placement), found
    return found


def refused(found: Placement | Refusal) -> Refusal:
    assert isinstance(found, Refusal), found
    return found


# --- the oracle: no index, no profile, no matching, only the rules -------------------------------


def is_wanted(device: DeviceRequest, offer: Offer) -> bool:
    layout = offer.standing.layout
    if layout.kind != device.kind:
        return False
    if device.model == layout.ids or not device.model:
        return True
    words = set(re.split(r"[^a-z0-9]+", offer.standing.model.lower()))
    return set(device.model.lower().split()) <= words


def is_placeable(offer: Offer, asked: PlaceRequest) -> bool:
    standing = offer.standing
    return (
        not standing.refusing
        and standing.busy is None
        and not offer.vm
        and all(need.word in asked.allow for need in standing.needs)
        and all(is_accepted(offer, need.code) for need in standing.needs)
    )


def is_accepted(offer: Offer, code: str) -> bool:
    return any(risk.code == code and not risk.ended for risk in offer.risks)


def fits(node: Entry, asked: PlaceRequest) -> bool:
    if node.stage or (asked.node and asked.node != node.node):
        return False
    slots = [device for device in asked.devices for _ in range(device.count)]
    usable = [offer for offer in node.offers if is_placeable(offer, asked)]
    for chosen in itertools.permutations(usable, len(slots)):
        numas = {offer.standing.layout.numa_node for offer in chosen}
        together = len(slots) == 1 or (len(numas) == 1 and None not in numas)
        if all(map(is_wanted, slots, chosen)) and (together or not asked.same_numa):
            return True
    return False


small = requests.filter(lambda asked: sum(d.count for d in asked.devices) <= 4)


@given(entries, small)
def test_refused_when_and_only_when_no_node_fits(
    nodes: tuple[Entry, ...], asked: PlaceRequest
) -> None:
    found = place(index_of(*nodes), asked, MOMENT)
    able = {node.node for node in nodes if fits(node, asked)}
    event("fits" if able else "refused")
    if isinstance(found, Placement):
        assert found.node in able
    else:
        assert not able


@given(entries, small)
def test_only_units_that_pass_everything_are_given(
    nodes: tuple[Entry, ...], asked: PlaceRequest
) -> None:
    found = place(index_of(*nodes), asked, MOMENT)
    if isinstance(found, Refusal):
        return
    (node,) = [node for node in nodes if node.node == found.node]
    offers = {offer.unit: offer for offer in node.offers}
    assert len({unit.unit for unit in found.units}) == len(found.units)
    slots = [device for device in asked.devices for _ in range(device.count)]
    assert len(found.units) == len(slots)
    for unit in found.units:
        assert is_placeable(offers[unit.unit], asked)
        gates = [proof.gate for proof in unit.proof]
        needs = offers[unit.unit].standing.needs
        risks = ["risk-decision" for _ in needs]
        assert gates == ["heard", "admitted", *(gate.check for gate in GATES), *risks, "free"]
        decisions = [p for p in unit.proof if p.gate == "risk-decision"]
        assert [p.code for p in decisions] == [need.code for need in needs]
        for p in decisions:
            assert p.verdict is Verdict.WARN
            assert "risk accepted by ops until 2027-03-01: a reason (risk-" in p.evidence[0]
        others = [p for p in unit.proof if p not in decisions]
        assert all(p.verdict is Verdict.PASS and p.evidence for p in others)
        assert {p.age_s for p in unit.proof} == {10.0}
    if asked.same_numa and len(slots) > 1:
        numas = {offers[u.unit].standing.layout.numa_node for u in found.units}
        assert len(numas) == 1
        assert None not in numas


@given(entries, requests, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(
    nodes: tuple[Entry, ...], asked: PlaceRequest, random: Random
) -> None:
    rows = list(nodes)
    expected = place(index_of(*rows), asked, MOMENT, detail=True)
    assert place(index_of(*reversed(rows)), asked, MOMENT, detail=True) == expected
    random.shuffle(rows)
    assert place(index_of(*rows), asked, MOMENT, detail=True) == expected
    again = place(index_of(*rows), asked, MOMENT, detail=True)
    assert again == expected


@given(entries, entries, requests)
def test_how_the_index_came_about_does_not_matter(
    before: tuple[Entry, ...], after: tuple[Entry, ...], asked: PlaceRequest
) -> None:
    index = index_of(*before, *after)
    for node in before:
        if node.node not in {a.node for a in after}:
            index = remove(index, node.node)
    assert place(index, asked, MOMENT, detail=True) == place(
        index_of(*after), asked, MOMENT, detail=True
    )


@given(entries, requests)
def test_every_node_is_accounted_for(nodes: tuple[Entry, ...], asked: PlaceRequest) -> None:
    found = place(index_of(*nodes), asked, MOMENT, detail=True)
    if isinstance(found, Placement):
        return
    considered = {n.node for n in nodes if asked.node in ("", n.node)}
    assert {row.node for row in found.nodes} == considered
    assert len(found.nodes) == found.nodes_total == len(considered)
    assert [s.stage for s in found.stages] == [
        s for s in STAGES if s in {row.stage for row in found.nodes}
    ]
    for stage in found.stages:
        assert stage.nodes == sum(row.stage == stage.stage for row in found.nodes)
        assert stage.why
    assert all(row.reason for row in found.nodes)
    short = refused(place(index_of(*nodes), asked, MOMENT))
    assert (short.stages, short.nearest) == (found.stages, found.nearest)


@given(entries, st.lists(specs, max_size=5), requests)
def test_another_node_never_turns_a_placement_into_a_refusal(
    nodes: tuple[Entry, ...], extra: list[Spec], asked: PlaceRequest
) -> None:
    if isinstance(place(index_of(*nodes), asked, MOMENT), Placement):
        more = index_of(*nodes, entry("zz", *extra))
        assert isinstance(place(more, asked, MOMENT), Placement)


@given(entries, requests)
def test_what_comes_nearest_really_fits_after_its_change(
    nodes: tuple[Entry, ...], asked: PlaceRequest
) -> None:
    found = place(index_of(*nodes), asked, MOMENT)
    if isinstance(found, Placement):
        return
    by_name = {node.node: node for node in nodes}
    assert len(found.nearest) <= 3
    assert [n.node for n in found.nearest] == sorted({n.node for n in found.nearest})
    for near in found.nearest:
        node = by_name[near.node]
        assert node.stage != "heard"
        if near.command.startswith("vfioctl node uncordon"):
            assert fits(replace(node, stage=""), asked)
        elif near.command.startswith("vfioctl vm place"):
            words = near.command.split()
            allow = tuple(words[i + 1] for i, word in enumerate(words) if word == "--allow")
            again = PlaceRequest(
                asked.vm, asked.devices, "--same-numa" in words, allow, asked.node, False, False, ""
            )
            assert fits(node, again)
            assert not fits(node, asked)
        elif near.command.startswith("vfioctl risk accept"):
            words = near.command.split()
            assert words[words.index("--node") + 1] == near.node
            code = words[words.index("--code") + 1]
            assert ALLOWS[code] in asked.allow
            accepted = RiskDecision(code, "risk-1", "r", "ops", "2027-03-01T23:59:59Z")
            changed = [replace(o, risks=(*o.risks, accepted)) for o in node.offers]
            assert fits(replace(node, offers=tuple(changed)), asked)
            assert not fits(node, asked)
        else:
            changed = [
                replace(o, standing=replace(o.standing, refusing=()))
                if str(o.primary) in near.change
                else o
                for o in node.offers
            ]
            words = near.command.split()
            assert words[:-1] == ["vfioctl", "device", "bind", near.node]
            assert words[-1] in near.change
            assert fits(replace(node, offers=tuple(changed)), asked)


# --- examples ------------------------------------------------------------------------------------


def test_best_fit_takes_the_node_that_is_left_with_the_fewest() -> None:
    index = index_of(
        entry("big", *[Spec()] * 8), entry("small", *[Spec()] * 3), entry("tiny", Spec())
    )
    assert placed(place(index, request("gpu=2"), MOMENT)).node == "small"
    assert placed(place(index, request("gpu"), MOMENT)).node == "tiny"
    assert placed(place(index, request("gpu=4"), MOMENT)).node == "big"


def test_other_kinds_do_not_count_for_the_fit() -> None:
    crowded = entry("a", Spec(), Spec(), *[Spec(kind="nic")] * 0)
    roomy = entry("b", Spec(), *[Spec(kind="nic")] * 6)
    assert placed(place(index_of(crowded, roomy), request("gpu"), MOMENT)).node == "b"


def test_ties_break_by_name_and_by_unit() -> None:
    index = index_of(entry("b", Spec(), Spec()), entry("a", Spec(), Spec()))
    found = placed(place(index, request("gpu"), MOMENT))
    assert (found.node, found.units[0].unit) == ("a", "gpu-00000000")


def test_the_tightest_numa_node_is_used() -> None:
    node = entry("a", Spec(numa=0), Spec(numa=0), Spec(numa=0), Spec(numa=1), Spec(numa=1))
    found = placed(place(index_of(node), request("gpu=2"), MOMENT))
    assert {unit.numa_node for unit in found.units} == {1}
    found = placed(place(index_of(node), request("gpu=3"), MOMENT))
    assert {unit.numa_node for unit in found.units} == {0}
    found = placed(place(index_of(node), request("gpu=4"), MOMENT))
    assert sorted(unit.numa_node for unit in found.units) == [0, 0, 0, 1]
    refusal = refused(place(index_of(node), request("gpu=4", same_numa=True), MOMENT))
    assert [(s.stage, s.nodes) for s in refusal.stages] == [("topology", 1)]
    assert "NUMA 0, NUMA 1" in refusal.stages[0].why
    (near,) = refusal.nearest
    assert near.change == "fits without --same-numa"
    assert near.command == "vfioctl vm place vm1 --device gpu=4"


def test_a_host_without_numa_is_one_numa_node_and_an_unknown_one_is_none() -> None:
    flat = entry("a", Spec(numa=-1), Spec(numa=-1))
    unknown = entry("b", Spec(numa=None), Spec(numa=None))
    asked = request("gpu=2", same_numa=True)
    assert placed(place(index_of(flat), asked, MOMENT)).node == "a"
    assert refused(place(index_of(unknown), asked, MOMENT)).stages[0].stage == "topology"
    assert placed(place(index_of(unknown), request("gpu", same_numa=True), MOMENT))


def test_risks_are_taken_only_where_nothing_else_is_left() -> None:
    node = entry("a", Spec(needs=("acs-override",)), Spec())
    asked = request("gpu", allow=("acs-override",))
    assert placed(place(index_of(node), asked, MOMENT)).units[0].unit == "gpu-00000001"
    refusal = refused(place(index_of(node), request("gpu=2"), MOMENT))
    assert refusal.stages[0].stage == "isolation"
    assert "lacks --allow acs-override" in refusal.stages[0].why
    assert "--allow acs-override" in refusal.nearest[0].command


def test_a_need_of_an_earlier_stage_is_named_before_a_refusal_of_a_later_one() -> None:
    node = entry("a", Spec(needs=("acs-override",), refused=("reset",)))
    assert refused(place(index_of(node), request("gpu"), MOMENT)).stages[0].stage == "isolation"
    allowed = request("gpu", allow=("acs-override",))
    assert refused(place(index_of(node), allowed, MOMENT)).stages[0].stage == "reset"


def test_models_match_by_word_and_by_ids() -> None:
    node = entry("a", Spec(model="GA102GL [RTX A5000]"))
    for model in ("a5000", "A5000", "rtx a5000", "10de:2231", "[RTX", ""):
        assert placed(place(index_of(node), request(f"gpu:{model}"), MOMENT))
    for model in ("a500", "a50000", "10de:2232", "rtx a6000"):
        found = refused(place(index_of(node), request(f"gpu:{model}"), MOMENT))
        assert found.stages[0].stage == "model"


def test_overlapping_models_are_matched_exactly() -> None:
    node = entry("a", Spec(model="A100 PCIe"), Spec(model="RTX A5000"))
    for devices in (("gpu", "gpu:a100"), ("gpu:a100", "gpu"), ("gpu:a5000", "gpu:a100")):
        assert len(placed(place(index_of(node), request(*devices), MOMENT)).units) == 2
    assert refused(place(index_of(node), request("gpu:a100=2"), MOMENT))
    assert refused(place(index_of(node), request("gpu=2", "gpu:a100"), MOMENT))


def test_stages_are_counted_in_order_with_reasons() -> None:
    index = index_of(
        entry("pve12", Spec(), Spec(), stage="heard"),
        entry("pve07", Spec(), Spec(), stage="admitted"),
        entry("pve10", Spec(kind="nic")),
        entry("pve03", Spec(needs=("acs-override",)), Spec(needs=("acs-override",))),
        entry("pve04", Spec(), Spec(refused=("binding",))),
        entry("pve05", Spec(), Spec(refused=("reset",))),
        entry("pve01", Spec(), Spec(held="claimed")),
        entry("pve02", Spec(numa=0), Spec(numa=1)),
    )
    found = refused(place(index, request("gpu=2", same_numa=True), MOMENT, detail=True))
    assert [(s.stage, s.nodes) for s in found.stages] == [
        ("heard", 1),
        ("admitted", 1),
        ("model", 1),
        ("isolation", 1),
        ("binding", 1),
        ("reset", 1),
        ("free", 1),
        ("topology", 1),
    ]
    assert {s.stage: s.why for s in found.stages}["free"] == (
        "pve01: 1 of 2 free; 0000:02:00.0 is claimed by other"
    )
    assert [n.node for n in found.nearest] == ["pve02", "pve03", "pve04"]
    bind = found.nearest[2]
    assert bind.command == "vfioctl device bind pve04 0000:02:00.0"


def test_nodes_without_the_kind_and_without_the_model_are_counted_together() -> None:
    index = index_of(
        entry("c", Spec(kind="nic")), entry("a", Spec(model="A100 PCIe")), entry("b"), entry("d")
    )
    (stage,) = refused(place(index, request("gpu:a5000"), MOMENT)).stages
    assert (stage.stage, stage.nodes) == ("model", 4)
    assert stage.why == "a b c and 1 more: no gpu:a5000"


def test_a_pinned_request_considers_that_node_alone() -> None:
    index = index_of(entry("a", Spec(held="claimed")), entry("b", Spec()))
    found = refused(place(index, request("gpu", node="a"), MOMENT))
    assert (found.nodes_total, [n.node for n in found.nodes]) == (1, ["a"])
    assert placed(place(index, request("gpu", node="b"), MOMENT)).node == "b"


def test_an_empty_cluster_refuses_and_adds_up() -> None:
    found = refused(place(index_of(), request("gpu"), MOMENT))
    assert (found.nodes_total, found.stages, found.nodes, found.nearest) == (0, (), (), ())
