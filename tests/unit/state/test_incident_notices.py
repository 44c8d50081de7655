"""Who is told of an incident and when; acknowledging it; what a crash between leaves."""

from __future__ import annotations

from tests.unit.state.cluster import ask_for
from tests.unit.state.troubles import Fleet
from vfio_contract.errors import ErrorCode
from vfio_contract.incident_views import IncidentView
from vfio_contract.views import Decision
from vfio_coordinator.state.effects import Failure
from vfio_coordinator.state.events import NotifyEnded
from vfio_coordinator.state.incident_notices import HOLD_S, QUIET

KERNEL = {"wide": True, "kernel": "6.8.12-5"}


def reasons(fleet: Fleet) -> list[tuple[str, str]]:
    return [(notice.stamp, notice.reason) for notice in fleet.told]


def many(count: int) -> tuple[Fleet, list[str]]:
    names = [f"pve{n:02}" for n in range(count)]
    return Fleet(*names), names


def test_it_is_told_when_it_opened_and_whenever_its_nodes_doubled() -> None:
    fleet, names = many(9)
    for name in names:
        fleet.boot(name, **KERNEL)
        if len(fleet.told) > len(set(reasons(fleet))) - 1:
            fleet.deliver()
    assert reasons(fleet) == [
        ("INC-1/1", "opened"),
        ("INC-1/2", "worse: 1 nodes, now 2"),
        ("INC-1/3", "worse: 2 nodes, now 4"),
        ("INC-1/4", "worse: 4 nodes, now 8"),
    ]
    assert fleet.told[-1].incident.nodes == 8
    assert fleet.told[-1].incident.factors[0].waiting == 1


def test_while_people_are_being_told_nothing_more_is_said() -> None:
    fleet, names = many(5)
    fleet.boot(names[0], **KERNEL)
    fleet.pass_hold()
    fleet.boot(*names[1:], **KERNEL)
    fleet.pass_hold()
    assert reasons(fleet) == [("INC-1/1", "opened")]
    fleet.deliver()
    fleet.pass_hold()
    assert reasons(fleet)[1:] == [("INC-1/2", "worse: 1 nodes, now 5")]
    fleet.deliver()
    fleet.pass_hold()
    assert len(fleet.told) == 2


def test_what_comes_of_one_cause_within_a_while_is_one_message() -> None:
    fleet, names = many(6)
    fleet.place(Decision, ask_for("vm1"))
    fleet.place(Decision, ask_for("vm2"))
    fleet.boot(names[0], **KERNEL)
    fleet.wait(HOLD_S / 4)
    fleet.boot(*names[1:5], **KERNEL)
    fleet.wait(HOLD_S / 4)
    assert fleet.told == []
    fleet.pass_hold()
    assert reasons(fleet) == [("INC-1/1", "opened")]
    view = fleet.told[0].incident
    assert (view.nodes, view.vms) == (5, 1)
    fleet.deliver()
    fleet.pass_hold()
    assert len(fleet.told) == 1


def test_what_is_over_within_a_while_is_told_only_if_it_comes_back() -> None:
    fleet, names = many(1)
    fleet.boot(*names, **KERNEL)
    fleet.heal(*names)
    fleet.pass_hold()
    fleet.pass_hold()
    assert fleet.told == []
    assert [view.state for view in fleet.all()] == ["closed"], "it stays in the list"
    fleet.boot(*names, **KERNEL)
    assert reasons(fleet) == [("INC-1/1", "opened")], "at once: it has waited"
    assert not fleet.state.incidents.due


def test_of_what_was_over_long_ago_nothing_is_due() -> None:
    fleet, names = many(1)
    fleet.boot(*names, **KERNEL)
    fleet.heal(*names)
    fleet.pass_hold()
    assert list(fleet.state.incidents.due) == [1]
    fleet.seconds += QUIET.total_seconds()
    fleet.pass_hold()
    assert not fleet.state.incidents.due
    fleet.join(*fleet.agents.values())
    fleet.boot(*names, **KERNEL)
    assert [n for n in fleet.told if n.incident.id == "INC-1"] == []
    fleet.pass_hold()
    assert ("INC-1/1", "opened") in reasons(fleet)


def test_nothing_is_told_before_it_is_in_the_store() -> None:
    fleet, names = many(1)
    fleet.held = True
    fleet.boot(*names, **KERNEL)
    assert fleet.told == []
    fleet.pass_hold()
    assert fleet.told == []
    fleet.held = False
    fleet.pass_hold()
    fleet.pass_hold()
    assert reasons(fleet) == [("INC-1/1", "opened")]


def test_the_first_vm_is_a_reason() -> None:
    fleet, _ = many(3)
    fleet.place(Decision, ask_for("vm1"))
    fleet.place(Decision, ask_for("vm2"))
    fleet.place(Decision, ask_for("vm3"))
    holder = fleet.state.vms["vm1"].record.node
    others = [name for name in fleet.agents if not fleet.state.nodes[name].held]
    for name in (*others[:1], *others[1:2]):
        fleet.boot(name, **KERNEL)
        fleet.deliver()
    told = len(fleet.told)
    fleet.boot(holder, **KERNEL)
    fleet.pass_hold()
    assert [reason for _, reason in reasons(fleet)[told:]] == ["worse: the first VM is affected"]


def test_a_telling_that_failed_comes_again_with_the_next_change() -> None:
    fleet, names = many(3)
    fleet.boot(names[0], **KERNEL)
    fleet.deliver(ok=False)
    fleet.pass_hold()
    assert len(fleet.told) == 1
    fleet.boot(names[1], **KERNEL)
    fleet.pass_hold()
    assert reasons(fleet)[1:] == [("INC-1/1", "opened")], "the same number: it never arrived"


def test_a_crash_before_the_mark_tells_it_again_under_the_same_stamp_and_after_it_never() -> None:
    fleet, names = many(1)
    fleet.boot(*names, **KERNEL)
    fleet.pass_hold()
    fleet.restart()
    assert reasons(fleet) == [("INC-1/1", "opened"), ("INC-1/1", "opened")]
    fleet.held = True
    fleet.deliver()
    fleet.restart()
    assert len(fleet.told) == 3, "delivered, but the mark was not written"
    fleet.held = False
    fleet.deliver()
    fleet.restart()
    assert len(fleet.told) == 3


def test_a_crash_while_it_waits_tells_it_at_once() -> None:
    fleet, names = many(1)
    fleet.boot(*names, **KERNEL)
    assert fleet.told == []
    fleet.restart()
    assert reasons(fleet) == [("INC-1/1", "opened")]


def test_of_many_incidents_some_are_told_at_once_and_the_next_as_those_are_delivered() -> None:
    fleet, names = many(40)
    fleet.checked = False
    for number, name in enumerate(names):
        fleet.boot(name, wide=True, bios=f"G{number}")
    fleet.pass_hold()
    assert len(fleet.told) == 32
    fleet.deliver(ok=False)
    assert len(fleet.told) == 32, "nothing is delivered: nothing follows"
    fleet.boot(names[0], wide=True, bios="G0")
    first = fleet.told[0]
    fleet.send(NotifyEnded(incident=first.incident.id, stamp=first.stamp, ok=True, detail=""))
    assert {notice.stamp for notice in fleet.told} >= {f"INC-{n}/1" for n in range(1, 33)}


def test_answers_to_no_telling_change_nothing() -> None:
    fleet, names = many(1)
    fleet.boot(*names, **KERNEL)
    before = fleet.state
    for stamp in ("INC-1/2", "INC-7/1", "INC-x/1", "", "/", "INC-1/"):
        fleet.send(NotifyEnded(incident="INC-1", stamp=stamp, ok=True, detail=""))
    assert fleet.state.incidents is before.incidents
    last = fleet.deliver()
    told = fleet.state.incidents
    fleet.send(NotifyEnded(incident="INC-1", stamp=last.stamp, ok=True, detail=""))
    assert fleet.state.incidents is told, "twice is once"


def test_what_somebody_acknowledged_is_told_only_when_it_gets_worse() -> None:
    fleet, names = many(4)
    fleet.boot(*names[:2], **KERNEL)
    fleet.deliver()
    view = fleet.ack(IncidentView, "INC-1", reason="rolling back")
    assert (view.acked_by, view.ack_reason, view.acked_at) == ("ann", "rolling back", fleet.now.utc)
    told = len(fleet.told)
    fleet.boot(names[2], **KERNEL)
    fleet.pass_hold()
    assert len(fleet.told) == told
    assert fleet.open()[0].acked_by == "ann"
    fleet.boot(names[3], **KERNEL)
    fleet.pass_hold()
    assert [reason for _, reason in reasons(fleet)[told:]] == ["worse: 2 nodes, now 4"]
    assert fleet.open()[0].acked_by == ""
    assert fleet.rows("INCIDENT_WORSE") == [
        "INC-1 is worse: 2 nodes, now 4; ann had acknowledged it before"
    ]
    assert fleet.rows("INCIDENT_ACKED") == ["INC-1 acknowledged, 2 nodes: rolling back"]


def test_acknowledging_before_anybody_was_told_is_enough() -> None:
    fleet, names = many(1)
    fleet.held = True
    fleet.boot(*names, **KERNEL)
    while not fleet.state.incidents.held or not fleet.state.incidents.held[1].record:
        fleet.commit_one()
    fleet.held = False
    fleet.ack(IncidentView, "1")
    fleet.pass_hold()
    fleet.restart()
    assert fleet.told == []
    assert fleet.open()[0].acked_by == "ann"


def test_who_acknowledges_without_a_word_erases_nobody_s() -> None:
    fleet, names = many(1)
    fleet.boot(*names, **KERNEL)
    fleet.ack(IncidentView, "1")
    fleet.ack(IncidentView, "1", reason="rolling back")
    view = fleet.ack(IncidentView, "1")
    assert view.ack_reason == "rolling back"
    assert fleet.ack(IncidentView, "1", reason="done soon").ack_reason == "done soon"


def test_an_acknowledgement_that_waits_for_a_write_is_answered_after_it() -> None:
    fleet, names = many(2)
    fleet.boot(names[0], **KERNEL)
    fleet.deliver()
    fleet.held = True
    fleet.boot(names[1], **KERNEL)
    before = dict(fleet.replies)
    first = fleet.ask_ack("INC-1", "ann")
    second = fleet.ask_ack("INC-1", "bob")
    assert fleet.replies == before
    fleet.settle_store()
    assert isinstance(fleet.replies[first], IncidentView)
    answer = fleet.replies[second]
    assert isinstance(answer, IncidentView)
    assert answer.acked_by == "bob"
    fleet.held = False
    fleet.restart()
    assert fleet.open()[0].acked_by == "bob"


def test_a_closed_one_is_told_to_nobody_and_cannot_be_acknowledged() -> None:
    fleet, names = many(1)
    fleet.held = True
    fleet.boot(*names, **KERNEL)
    fleet.heal(*names)
    fleet.settle_store()
    fleet.held = False
    fleet.pass_hold()
    assert fleet.told == []
    refused = fleet.ack(Failure, "INC-1")
    assert refused.code is ErrorCode.BAD_REQUEST
    assert "closed" in refused.detail
    fleet.restart()
    assert fleet.told == []


def test_a_refused_acknowledgement_changes_nothing() -> None:
    fleet, names = many(1)
    fleet.boot(*names, **KERNEL)
    before = fleet.state.incidents
    assert fleet.ack(Failure, "INC-4").code is ErrorCode.UNKNOWN_INCIDENT
    assert fleet.state.incidents is before
