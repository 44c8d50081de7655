"""One trouble after another: what is a new occurrence, who is told of it, what gives way."""

from __future__ import annotations

import json

import pytest

from tests.unit.state.cluster import ask_for
from tests.unit.state.troubles import Fleet, host
from vfio_contract.artifact import encode
from vfio_contract.findings import Verdict
from vfio_contract.firmware import firmware_tuple
from vfio_contract.incident_views import IncidentView
from vfio_contract.views import Decision
from vfio_coordinator.state import incident_notices, incident_writes
from vfio_coordinator.state.events import NotifyEnded, Tick
from vfio_coordinator.state.incident_matters import MAX_TEXT, MAX_VALUE, is_shortened, shorten
from vfio_coordinator.state.incident_records import IncidentNodeRecord, IncidentRecord, Suspect
from vfio_coordinator.state.model import Limits
from vfio_coordinator.store.interface import MAX_KEY_BYTES, MAX_TXN_BYTES

KERNEL = {"wide": True, "kernel": "6.8.12-5"}
DAY_S = 86_400


def later(fleet: Fleet, seconds: float, *, without: tuple[str, ...] = ()) -> None:
    """Time passes; all but these are heard at the end of it."""
    fleet.seconds += seconds
    for name, one in fleet.agents.items():
        if name not in without:
            fleet.observe(one)
    fleet.send(Tick())


def drain(fleet: Fleet) -> int:
    """People take whatever they are told, after its time to wait; how many tellings there were."""
    fleet.pass_hold()
    while fleet.state.incidents.telling:
        number = next(iter(fleet.state.incidents.telling))
        telling = fleet.state.incidents.held[number].telling
        assert telling is not None
        id = f"INC-{number}"
        stamp = f"{id}/{telling.number}"
        fleet.send(NotifyEnded(incident=id, stamp=stamp, ok=True, detail=""))
    return len(fleet.told)


def reasons(fleet: Fleet, before: int = 0) -> list[tuple[str, str]]:
    return [(notice.stamp, notice.reason) for notice in fleet.told[before:]]


# --- the same again ------------------------------------------------------------------------------


def test_a_node_that_is_lost_every_day_is_told_every_day_and_under_a_new_id() -> None:
    fleet = Fleet("pve01", "pve02", "pve03")
    for _ in range(3):
        fleet.silence("pve01")
        drain(fleet)
        fleet.join(fleet.agents["pve01"])
        later(fleet, 20 * 3600)
    assert [view.id for view in fleet.all()] == ["INC-1"]
    assert reasons(fleet) == [
        ("INC-1/1", "opened"),
        ("INC-1/2", "opened again"),
        ("INC-1/3", "opened again"),
    ]


def test_one_that_reboots_again_and_again_is_told_once() -> None:
    fleet = Fleet("pve01", "pve02")
    for _ in range(4):
        fleet.boot("pve01", **KERNEL)
        drain(fleet)
        fleet.heal("pve01")
        later(fleet, 300)
    assert reasons(fleet) == [("INC-1/1", "opened")]


def test_an_acknowledgement_of_yesterday_silences_nothing_new() -> None:
    fleet = Fleet("pve01", "pve02")
    fleet.boot("pve01", **KERNEL)
    drain(fleet)
    fleet.ack(IncidentView, "1")
    fleet.heal("pve01")
    later(fleet, 20 * 3600)
    fleet.boot("pve02", **KERNEL)
    (one,) = fleet.open()
    assert (one.id, one.acked_by) == ("INC-1", "")
    fleet.pass_hold()
    assert reasons(fleet)[1:] == [("INC-1/2", "opened again")]
    assert fleet.rows("INCIDENT_WORSE") == ["INC-1 is opened again; ann had acknowledged it before"]


def test_what_was_told_is_still_so_after_a_restart() -> None:
    fleet = Fleet("pve01")
    fleet.boot("pve01", **KERNEL)
    drain(fleet)
    fleet.heal("pve01")
    later(fleet, 20 * 3600)
    fleet.boot("pve01", **KERNEL)
    fleet.pass_hold()
    fleet.restart()
    assert reasons(fleet)[1:] == [("INC-1/2", "opened again")] * 2
    drain(fleet)
    fleet.restart()
    assert len(fleet.told) == 3


# --- more of it ----------------------------------------------------------------------------------


def test_nodes_that_fall_silent_at_other_times_are_other_incidents() -> None:
    names = [f"pve{n:02}" for n in range(8)]
    fleet = Fleet(*names)
    fleet.silence(*names[:4])
    (switch,) = fleet.open()
    assert (switch.id, switch.nodes) == ("INC-1", 4)
    told = drain(fleet)
    for name in names[1:4]:
        fleet.join(fleet.agents[name])
    fleet.ack(IncidentView, "1", reason="pve00 is scrapped")
    for number, name in enumerate(names[4:7]):
        later(fleet, 7 * DAY_S, without=(names[0], *names[4 : 4 + number]))
        fleet.silence(names[0], *names[4 : 5 + number])
        assert fleet.nodes_of(f"INC-{number + 2}") == [name]
        drain(fleet)
    assert [reason for _, reason in reasons(fleet, told)] == ["opened"] * 3
    assert fleet.show("INC-1").acked_by == "ann", "nothing about it is worse"


def test_one_of_which_most_was_repaired_is_told_as_it_grows_again() -> None:
    names = [f"pve{n:02}" for n in range(6)]
    fleet = Fleet(*names)
    fleet.boot(*names[:4], **KERNEL)
    told = drain(fleet)
    assert fleet.open()[0].nodes == 4
    fleet.heal(*names[1:4])
    fleet.boot(names[1], **KERNEL)
    assert drain(fleet) == told, "who comes and goes meanwhile is nothing new"
    fleet.heal(names[1])
    later(fleet, DAY_S)
    fleet.boot(names[4], **KERNEL)
    fleet.pass_hold()
    assert [reason for _, reason in reasons(fleet, told)] == ["worse: 1 nodes, now 2"]


def test_twice_the_vms_are_a_reason() -> None:
    fleet = Fleet("pve01", "pve02", "pve03", "pve04")
    for vm in ("vm1", "vm2", "vm3"):
        fleet.place(Decision, ask_for(vm, "nic=2"))
    held = [name for name in fleet.agents if fleet.state.nodes[name].held]
    assert len(held) == 3
    (free,) = set(fleet.agents) - set(held)
    fleet.boot(free, held[0], **KERNEL)
    drain(fleet)
    told = drain(fleet)
    fleet.boot(held[1], **KERNEL)
    fleet.pass_hold()
    assert [reason for _, reason in reasons(fleet, told)] == ["worse: 1 VMs, now 2"]


# --- holds by what is not known ------------------------------------------------------------------


def test_what_passed_and_cannot_be_judged_any_more_is_an_incident() -> None:
    fleet = Fleet("pve01", "pve02", "pve03")
    for name in ("pve01", "pve02"):
        fleet.agents[name].replaced = {
            ("reset-capability", f"function:0000:0{bus}:00.0"): (Verdict.UNKNOWN, "RESET_UNKNOWN")
            for bus in (1, 2)
        }
        fleet.boot(name, kernel="6.8.12-5")
    (one,) = fleet.open()
    assert (one.code, one.level, one.nodes) == ("EVIDENCE_LOST", "WARN", 2)
    assert one.text.startswith("passed at the baseline and cannot be judged now: ")
    assert one.factors[0].after == "6.8.12-5"
    fleet.pass_hold()
    assert fleet.told[0].incident.code == "EVIDENCE_LOST"
    assert fleet.view("pve01").state == "revalidating"
    for name in ("pve01", "pve02"):
        fleet.agents[name].replaced = {}
        fleet.observe(fleet.agents[name])
    assert fleet.open() == []
    assert fleet.view("pve01").state == "ready"


# --- what gives way, and how much goes into a write -----------------------------------------------


def test_one_that_is_being_told_is_not_forgotten() -> None:
    fleet = Fleet("pve01", "pve02", "pve03", limits=Limits(incidents_kept=0))
    fleet.boot("pve01", wide=True, bios="G1")
    fleet.pass_hold()
    first = fleet.told[0]
    fleet.boot("pve02", wide=True, bios="G2")
    fleet.heal("pve01")
    fleet.boot("pve03", wide=True, bios="G3")
    fleet.held = True
    fleet.heal("pve02")
    while not any(getattr(w, "left", ()) for w in fleet.state.pending.values()):
        fleet.commit_one()
    fleet.send(NotifyEnded(incident="INC-1", stamp=first.stamp, ok=True, detail=""))
    fleet.settle_store()
    fleet.held = False
    assert first.incident.id == "INC-1"
    assert "INC-1" in [view.id for view in fleet.all()], "its mark was being written"
    drain(fleet)
    for name in ("pve03", "pve01"):
        fleet.boot(name, wide=True, bios="G9")
        fleet.heal(name)
    assert "INC-1" not in [view.id for view in fleet.all()]


@pytest.mark.parametrize("odd", ["\x01", "é", "\U0001f600", "\\"])
def test_whatever_hosts_say_as_many_nodes_as_go_together_fit_into_a_write(odd: str) -> None:
    parts = [part for part, _ in firmware_tuple(host().facts)]
    value = shorten(odd * MAX_VALUE)
    longest = max((value, shorten(odd * (MAX_VALUE // len(json.dumps(odd))))), key=json.dumps)
    suspects = tuple(Suspect(part, longest, longest) for part in (*parts, "agent", "checks"))
    vms = tuple(f"{number:063}" for number in range(32))
    member = IncidentNodeRecord(1, "n" * 63, "", "ERR", odd * MAX_TEXT, suspects, vms)
    record = IncidentRecord(
        number=1,
        code="C" * 63,
        level="ERR",
        text=odd * MAX_TEXT,
        suspects=suspects,
        first_node="n" * 63,
        opened_at="",
        former=("n" * 63,) * 64,
    )
    size = len(encode(record)) + incident_writes._TOGETHER * (len(encode(member)) + MAX_KEY_BYTES)
    assert size < MAX_TXN_BYTES / 2, "the rows of the event log need room too"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("x" * MAX_VALUE, True),
        ("x" * (MAX_VALUE + 1), False),
        ("\x01" * 33, True),
        ("\x01" * 34, False),
        ("é" * 34, False),
        ('"' * 101, False),
    ],
)
def test_a_value_is_as_long_as_it_is_in_a_record(value: str, kept: bool) -> None:
    assert is_shortened(shorten(value)) is not kept
    assert (shorten(value) == value) is kept


# --- the queue of those to be told ---------------------------------------------------------------


def test_those_that_wait_are_told_in_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incident_notices, "_AT_ONCE", 2)
    names = [f"pve{n}" for n in range(1, 7)]
    fleet = Fleet(*names)
    for name in names:
        fleet.boot(name, wide=True, bios=f"G{name}")
    fleet.pass_hold()
    assert list(fleet.state.incidents.untold) == [f"{n:010}" for n in range(3, 7)]
    fleet.heal("pve3")
    fleet.send(NotifyEnded(incident="INC-1", stamp="INC-1/1", ok=True, detail=""))
    assert [stamp for stamp, _ in reasons(fleet, 2)] == ["INC-4/1"], "3 is closed by now"
    fleet.send(NotifyEnded(incident="INC-2", stamp="INC-2/1", ok=False, detail="refused"))
    assert len(fleet.told) == 3, "nothing was delivered: nothing follows"
    drain(fleet)
    assert [stamp for stamp, _ in reasons(fleet, 3)] == ["INC-5/1", "INC-6/1"]
    assert not fleet.state.incidents.untold
