"""Incidents: what is one cause, who is in it, how it ends.

Length: the rules of joining, leaving and reopening, one short scene each, over one fleet.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.state.cluster import Agent
from tests.unit.state.troubles import Fleet, host
from vfio_contract.durable import JournalStatus
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.incident_views import IncidentView
from vfio_contract.views import BaselineView
from vfio_coordinator.state.effects import Failure
from vfio_coordinator.state.incident_matters import shorten
from vfio_coordinator.state.invariants import check_invariants

WIDENED = "GROUP_WIDENED"
KERNEL = {"wide": True, "kernel": "6.8.12-5"}
BIOS = {"wide": True, "bios": "F11"}


def factor(view: IncidentView) -> str:
    first = view.factors[0]
    return f"{first.part} {first.before} -> {first.after}"


# --- what is one cause ---------------------------------------------------------------------------


def test_one_node_is_an_incident_without_a_common_factor() -> None:
    fleet = Fleet("pve01", "pve02")
    fleet.boot("pve01", **KERNEL)
    (one,) = fleet.open()
    assert (one.id, one.code, one.level, one.nodes, one.first_node) == (
        "INC-1",
        WIDENED,
        "ERR",
        1,
        "pve01",
    )
    assert one.text.startswith("widened (foreign member)")
    assert fleet.nodes_of("INC-1") == ["pve01"]
    (row,) = fleet.rows("INCIDENT_OPENED")
    assert row.startswith("INC-1 opened: GROUP_WIDENED on pve01: widened")


def test_the_same_change_on_more_nodes_is_the_same_incident() -> None:
    fleet = Fleet("pve01", "pve02", "pve03")
    fleet.boot("pve01", "pve02", **KERNEL)
    (one,) = fleet.open()
    assert (one.nodes, one.peak) == (2, 2)
    shown = fleet.show("INC-1")
    assert factor(shown) == "kernel 6.8.12-4 -> 6.8.12-5"
    assert shown.waiting == ("pve03",)
    assert (shown.unaffected, shown.unknown) == ((), ())
    assert len(fleet.rows("INCIDENT_OPENED")) == 1


def test_what_another_node_lacks_is_ruled_out() -> None:
    fleet = Fleet("pve01", "pve02", "pve03")
    fleet.boot("pve01", wide=True, kernel="6.8.12-5", bios="F11")
    fleet.boot("pve02", **KERNEL)
    (one,) = fleet.open()
    assert factor(one) == "kernel 6.8.12-4 -> 6.8.12-5"
    assert len(one.factors) == 1
    assert fleet.rows("INCIDENT_NARROWED") == [
        "INC-1: not BIOS F10 01/01/2025 -> F11 01/01/2025: pve02 shows the same without it"
    ]


def test_nodes_that_come_from_different_values_share_what_they_came_to() -> None:
    fleet = Fleet("pve01")
    fleet.add("pve02", kernel="6.8.4-2")
    fleet.boot("pve01", "pve02", **KERNEL)
    (one,) = fleet.open()
    assert (one.factors[0].before, one.factors[0].after) == ("", "6.8.12-5")
    assert fleet.rows("INCIDENT_NARROWED") == []


def test_two_causes_are_two_incidents() -> None:
    fleet = Fleet("pve01", "pve02", "pve03", "pve04")
    fleet.boot("pve01", **KERNEL)
    fleet.boot("pve02", **BIOS)
    fleet.boot("pve03", **KERNEL)
    fleet.boot("pve04", **BIOS)
    assert fleet.nodes_of("INC-1") == ["pve01", "pve03"]
    assert fleet.nodes_of("INC-2") == ["pve02", "pve04"]
    assert factor(fleet.show("INC-1")) == "kernel 6.8.12-4 -> 6.8.12-5"
    assert factor(fleet.show("INC-2")) == "BIOS F10 01/01/2025 -> F11 01/01/2025"


def test_what_changed_everywhere_without_harm_makes_no_two_causes_one() -> None:
    names = [f"pve{n:02}" for n in range(20)]
    fleet = Fleet()
    fleet.checked = False
    fleet.add(*names)
    newer = {"agent_version": "0.2.0"}
    fleet.boot(*names[4:], hello=newer)
    fleet.boot("pve00", hello=newer, **KERNEL)
    fleet.boot("pve01", hello=newer, **BIOS)
    fleet.boot("pve02", hello=newer, **KERNEL)
    assert fleet.nodes_of("INC-1") == ["pve00", "pve02"]
    assert fleet.nodes_of("INC-2") == ["pve01"]
    parts = [f.part for f in fleet.show("INC-1").factors]
    assert parts == ["kernel", "agent"], "the agent is everywhere, so it stands last"


def test_another_code_is_another_incident() -> None:
    fleet = Fleet("pve01")
    one = fleet.agents["pve01"]
    one.replaced = {("driver-binding", "function:0000:02:00.0"): (Verdict.FAIL, "NOT_BOUND")}
    fleet.observe(one)
    fleet.boot("pve01", **KERNEL)
    assert {view.code for view in fleet.open()} == {WIDENED, "NOT_BOUND"}


def test_a_finding_that_was_there_at_the_baseline_makes_no_incident() -> None:
    off = {("iommu-active", "node"): (Verdict.FAIL, "IOMMU_OFF")}
    fleet = Fleet()
    fleet.agents["pve01"] = one = Agent("pve01", host(), off)
    fleet.join(one)
    fleet.accept(BaselineView, "pve01", force=True, reason="not for passthrough yet")
    fleet.observe(one)
    assert fleet.open() == []
    fleet.add("pve02")
    fleet.agents["pve02"].replaced = off
    fleet.observe(fleet.agents["pve02"])
    assert [view.code for view in fleet.open()] == ["IOMMU_OFF"], "here it is a regression"
    assert fleet.nodes_of("INC-2") == ["pve02"]


def test_silence_is_one_incident_and_suspects_nothing() -> None:
    fleet = Fleet("pve01", "pve02", "pve03")
    fleet.boot("pve01", kernel="6.8.12-5")
    fleet.silence("pve01", "pve02")
    (one,) = fleet.open()
    assert (one.code, one.nodes, one.factors) == ("NODE_LOST", 2, ())
    assert {m.text for m in fleet.show("INC-1").members} == {"its agent is silent"}


def test_what_silent_nodes_share_is_a_factor_only_where_others_lack_it() -> None:
    names = [f"pve{n:02}" for n in range(30)]
    fleet = Fleet()
    fleet.checked = False
    fleet.add(*names)
    fleet.boot("pve00", "pve01", "pve02", kernel="6.8.12-5")
    fleet.silence("pve00", "pve01", "pve02")
    (one,) = fleet.open()
    first = one.factors[0]
    assert (first.part, first.before, first.after) == ("kernel", "", "6.8.12-5")
    assert not first.changed
    assert [f.part for f in one.factors] == ["kernel"], "all nodes share the rest"
    fleet.silence("pve00", "pve01", "pve02", "pve03")
    assert fleet.open()[0].factors == (), "one of them has another kernel"
    check_invariants(fleet.state)


def test_nobody_looks_and_a_bad_journal_are_incidents() -> None:
    fleet = Fleet("pve01", "pve02")
    fleet.say_journal(fleet.agents["pve01"], JournalStatus("HOSTD_AWAY", "no answer"))
    fleet.say_journal(fleet.agents["pve02"], JournalStatus("JOURNAL_FAILED", "disk full"))
    assert sorted(view.code for view in fleet.open()) == ["HOSTD_AWAY", "JOURNAL_FAILED"]
    for one in fleet.agents.values():
        fleet.say_journal(one, JournalStatus())
        fleet.seconds += 1
        fleet.observe(one)
    assert fleet.open() == []


def test_a_hold_that_waits_for_a_person_is_an_incident() -> None:
    fleet = Fleet()
    fleet.add("pve01", wide=True)
    fleet.boot("pve01")
    levels = {view.code: view.level for view in fleet.open()}
    assert levels == {"GROUP_NARROWED": "WARN", "DEVICE_VANISHED": "ERR"}


def test_a_value_as_long_as_a_host_likes_is_still_one_value() -> None:
    fleet = Fleet("pve01", "pve02", "pve03")
    long = "F11-" + "x" * 5_000
    fleet.boot("pve01", "pve02", wide=True, bios=long)
    (one,) = fleet.open()
    assert one.nodes == 2
    assert len(one.factors[0].after) < 40
    assert fleet.show("INC-1").waiting == ("pve03",), "counted by the value itself"
    assert shorten("F11") == "F11"


# --- peers ---------------------------------------------------------------------------------------


def test_nodes_that_have_it_and_are_fine_speak_against_it() -> None:
    fleet = Fleet("pve01", "pve02", "pve03", "pve04")
    fleet.boot("pve03", kernel="6.8.12-5")
    fleet.boot("pve01", "pve02", **KERNEL)
    shown = fleet.show("INC-1")
    assert (shown.unaffected, shown.waiting) == (("pve03",), ("pve04",))
    assert (shown.factors[0].unaffected, shown.factors[0].waiting) == (1, 1)


def test_who_has_another_trouble_does_not_speak_against_it() -> None:
    """Without an IOMMU no group is widened."""
    fleet = Fleet("pve01", "pve02", "pve03")
    fleet.agents["pve03"].replaced = {("iommu-active", "node"): (Verdict.FAIL, "IOMMU_OFF")}
    fleet.boot("pve03", kernel="6.8.12-5")
    fleet.boot("pve01", "pve02", **KERNEL)
    number = next(one.id for one in fleet.open() if one.code == "GROUP_WIDENED")
    shown = fleet.show(number)
    assert (shown.unaffected, shown.unknown) == ((), ("pve03",))


def test_who_is_not_heard_is_neither_fine_nor_waiting_for_certain() -> None:
    fleet = Fleet("pve01", "pve02", "pve03", "pve04")
    fleet.boot("pve03", kernel="6.8.12-5")
    fleet.boot("pve01", "pve02", **KERNEL)
    fleet.close(fleet.agents["pve03"])
    shown = fleet.show("INC-1")
    assert (shown.unaffected, shown.unknown) == ((), ("pve03",))
    fleet.restart()
    shown = fleet.show("INC-1")
    assert shown.unknown == ("pve03", "pve04"), "nobody was heard since the start"
    assert not any(member.heard for member in shown.members)


def test_boards_of_another_kind_are_no_peers() -> None:
    fleet = Fleet("pve01", "pve02")
    fleet.add("other", firmware=replace(host().facts.firmware, board_name="X13"))
    fleet.boot("pve01", "pve02", **KERNEL)
    assert fleet.show("INC-1").waiting == ()


# --- how it ends ---------------------------------------------------------------------------------


def test_the_last_node_that_is_well_again_closes_it() -> None:
    fleet = Fleet("pve01", "pve02")
    fleet.boot("pve01", "pve02", **KERNEL)
    fleet.heal("pve01")
    assert fleet.nodes_of("INC-1") == ["pve02"]
    assert fleet.show("INC-1").former == ("pve01",)
    fleet.heal("pve02")
    assert fleet.open() == []
    (one,) = fleet.all()
    assert (one.state, one.nodes, one.peak) == ("closed", 0, 2)
    assert one.closed_at == fleet.now.utc
    assert not fleet.store.range("incidents/0000000001/")
    assert fleet.rows("INCIDENT_CLOSED") == [
        "INC-1 closed: no node shows GROUP_WIDENED any more; 2 did at most"
    ]


def test_silence_proves_no_end() -> None:
    fleet = Fleet("pve01")
    fleet.boot("pve01", **KERNEL)
    fleet.silence("pve01")
    assert sorted(view.code for view in fleet.open()) == [WIDENED, "NODE_LOST"]
    fleet.hello(fleet.agents["pve01"])
    assert [view.code for view in fleet.open()] == [WIDENED], "heard, and not looked at yet"
    fleet.heal("pve01")
    assert fleet.open() == []


def test_a_node_that_comes_and_goes_makes_no_new_incident_and_tells_nobody_again() -> None:
    fleet = Fleet("pve01", "pve02")
    for _ in range(5):
        fleet.boot("pve01", **KERNEL)
        if not fleet.told:
            fleet.deliver()
        fleet.pass_hold()
        fleet.heal("pve01")
    assert [view.id for view in fleet.all()] == ["INC-1"]
    assert len(fleet.told) == 1
    assert len(fleet.rows("INCIDENT_REOPENED")) == 4


def test_after_a_day_it_is_another_one() -> None:
    fleet = Fleet("pve01")
    fleet.boot("pve01", **KERNEL)
    fleet.heal("pve01")
    fleet.close(fleet.agents["pve01"])
    fleet.wait(86_401)
    fleet.boot("pve01", **KERNEL)
    assert [(view.id, view.code) for view in fleet.open()] == [("INC-3", WIDENED)]
    fleet.heal("pve01")
    fleet.close(fleet.agents["pve01"])
    fleet.wait(86_399)
    fleet.boot("pve01", **KERNEL)
    assert [(view.id, view.code) for view in fleet.open()] == [("INC-3", WIDENED)]


def test_without_suspects_only_the_same_node_opens_it_again() -> None:
    fleet = Fleet("pve01", "pve02")
    fleet.boot("pve01", wide=True)
    fleet.heal("pve01")
    fleet.boot("pve02", wide=True)
    assert [view.id for view in fleet.open()] == ["INC-2"]
    fleet.boot("pve01", wide=True)
    (one,) = fleet.open()
    assert (one.id, one.nodes) == ("INC-2", 2), "an open one comes first"


def test_a_wall_clock_that_goes_back_changes_no_membership() -> None:
    fleet = Fleet("pve01", "pve02")
    fleet.boot("pve01", **KERNEL)
    fleet.set_wall("2020-01-01T00:00:00Z")
    fleet.boot("pve02", **KERNEL)
    fleet.heal("pve01", "pve02")
    fleet.boot("pve01", **KERNEL)
    assert [view.id for view in fleet.open()] == ["INC-1"]


# --- order ---------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_reports_does_not_decide_what_is_one_cause(dice: random.Random) -> None:
    """Nodes of one cause may have changed other things too, each its own."""
    names = [f"pve{n}" for n in range(7)]
    fleet = Fleet(*names)
    order = list(names)
    dice.shuffle(order)
    for name in order:
        number = int(name[3:])
        if number < 5:
            fleet.boot(name, wide=True, kernel="6.8.12-5", bios="F11" if number < 2 else "F10")
        else:
            fleet.boot(name, wide=True, bios="G1")
    found = sorted(tuple(fleet.nodes_of(view.id)) for view in fleet.open())
    assert found == [tuple(names[:5]), tuple(names[5:])], order


# --- finding one ---------------------------------------------------------------------------------


def test_an_incident_is_found_by_number_id_and_beginning() -> None:
    fleet = Fleet("pve01", "pve02")
    fleet.boot("pve01", **KERNEL)
    fleet.boot("pve02", **BIOS)
    for text in ("INC-1", "inc-1", "1"):
        assert fleet.show(text).id == "INC-1"
    assert fleet.ack(IncidentView, "2").id == "INC-2"
    for text in ("INC-9", "x", "", "INC-", "1" * 40, "-1", "٣"):
        assert fleet.ack(Failure, text).code is ErrorCode.UNKNOWN_INCIDENT


def test_a_beginning_that_fits_several_is_refused() -> None:
    fleet = Fleet()
    fleet.checked = False
    fleet.add(*(f"n{number}" for number in range(13)))
    for number in range(13):
        fleet.boot(f"n{number}", wide=True, bios=f"G{number}")
    for number in range(9):
        fleet.heal(f"n{number}")
    assert [view.id for view in fleet.open()] == ["INC-10", "INC-11", "INC-12", "INC-13"]
    assert fleet.show("INC-1").state == "closed", "its number, before it is a beginning"
    fleet.seconds += 90_000
    with pytest.raises(Exception, match="UNKNOWN_INCIDENT"):
        fleet.show("INC-14")
