"""What correlation costs a report at 10,000 nodes, and what 10,000 incidents in the store cost:
`name value unit` of processor time, no limits asserted.

`correlate.*` is the share of one judged report that incidents take: of a node without trouble, of
one that joins an incident of thousands, of one that leaves it, and with thousands of incidents of
one code open, none of which fits. `incidents.*` are a start, the status and the lists with 10,000
records, a fifth of them open. It runs under `make bench`, or alone:
`python -m tests.bench.bench_correlation`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import pytest

from tests.unit.state.crowd import Crowd, Kind, make_kind
from vfio_contract.artifact import encode
from vfio_coordinator.state import keys, report
from vfio_coordinator.state.incident_records import IncidentNodeRecord, IncidentRecord, Suspect
from vfio_coordinator.state.incident_report import incident_lines, list_incidents, show_incident
from vfio_coordinator.state.incidents import correlate_touched
from vfio_coordinator.state.model import State, start
from vfio_coordinator.state.turn import Turn
from vfio_coordinator.store.interface import KeyValue

NODES = 10_000
HIT = 3_000
ROUNDS = 300
CODE = "GROUP_WIDENED"


def correlate(state: State, crowd: Crowd, name: str) -> float:
    """Microseconds that incidents add to a report of this node, which is judged as it stands."""
    turn = Turn(state, crowd.now)
    turn.touched.add(name)
    began = time.process_time()
    correlate_touched(turn, _BLANK)
    return (time.process_time() - began) * 1e6


def join(crowd: Crowd, name: str, kind: Kind) -> float:
    """What it adds to the report that the node joins an incident with, its write included."""
    before = crowd.state.incidents
    crowd.reboot(name, kind)
    crowd.clear()
    return correlate(replace(crowd.state, incidents=before), crowd, name)


_BLANK = start()


def say(name: str, values: Sequence[float], unit: str) -> None:
    ordered = sorted(values)
    print(f"{name}.p50 {median(ordered):.1f} {unit}")
    print(f"{name}.p99 {ordered[int(len(ordered) * 0.99)]:.1f} {unit}")


def timed(name: str, call: Callable[[], object], *, rounds: int = 5) -> None:
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        spent.append((time.process_time() - began) * 1e3)
    print(f"{name} {median(spent):.1f} ms")


def records(count: int) -> list[KeyValue]:
    """So many incidents of one code, each of its own BIOS; every fifth is open, on one node."""
    items = []
    for number in range(1, count + 1):
        suspects = (Suspect("BIOS", "F10 01/01/2025", f"G{number}"),)
        opened = number % 5 == 0
        node = f"n{number:05}"
        record = IncidentRecord(
            number=number,
            code=CODE,
            level="ERR",
            text="widened (foreign member): 0000:01:00.0 + 0000:09:00.0",
            suspects=suspects,
            first_node=node,
            opened_at="2026-11-21T00:00:00Z",
            change=1,
            nodes=int(opened),
            peak=1,
            closed_at="" if opened else "2026-11-21T01:00:00Z",
        )
        items.append(_item(keys.incident_key(number), encode(record)))
        if opened:
            member = IncidentNodeRecord(
                number, node, record.opened_at, "ERR", record.text, suspects, ()
            )
            key = keys.incident_node_key(number, node)
            items.append(_item(key, encode(member)))
    return items


def _item(key: str, value: bytes) -> KeyValue:
    return KeyValue(key, value, create_revision=1, mod_revision=1, version=1)


def fill(crowd: Crowd, kind: Kind) -> list[str]:
    names = [f"n{number:05}" for number in range(NODES)]
    for name in names:
        crowd.join(name, kind)
        crowd.accept(name)
        crowd.clear()
    return names


@pytest.mark.bench
def test_correlation_figures() -> None:
    good, wide = make_kind(), make_kind(wide=True, kernel="6.8.12-5")
    crowd = Crowd()
    names = fill(crowd, good)
    print()
    well = [correlate(crowd.state, crowd, name) for name in names[-ROUNDS:]]
    say("correlate.nothing", well, "us")
    for name in names[: HIT - ROUNDS]:
        crowd.reboot(name, wide)
        crowd.clear()
    joins = [join(crowd, name, wide) for name in names[HIT - ROUNDS : HIT]]
    say(f"correlate.join_of_{HIT}", joins, "us")
    known = crowd.state
    say("correlate.member", [correlate(known, crowd, n) for n in names[:ROUNDS]], "us")
    view = show_incident(known, "INC-1")
    assert (view.nodes, view.factors[0].waiting) == (HIT, NODES - HIT)
    timed("correlate.show", lambda: show_incident(known, "INC-1"))
    timed("correlate.line_of_health", lambda: incident_lines(known, CODE))


@pytest.mark.bench
def test_ten_thousand_incidents_in_the_store() -> None:
    items = records(10_000)
    print()
    timed("incidents.start_without", lambda: Crowd())
    timed("incidents.start_10000", lambda: Crowd(items=items), rounds=1)
    crowd = Crowd(items=items)
    crowd.clear()
    good, wide = make_kind(), make_kind(wide=True, bios="F11")
    names = [f"n{number:05}" for number in range(1, 2 * ROUNDS) if number % 5]
    for name in names:
        crowd.join(name, good)
        crowd.accept(name)
        crowd.clear()
    opened = crowd.state.incidents
    fresh = []
    for name in names:
        crowd.state = replace(crowd.state, incidents=opened)
        fresh.append(join(crowd, name, wide))
    say("correlate.nothing_fits", fresh, "us")
    state = crowd.state
    timed("incidents.status", lambda: report.status(state, crowd.now, coordinator="co1"))
    timed("incidents.list", lambda: list_incidents(state, closed=False, limit=50))
    timed("incidents.list_all", lambda: list_incidents(state, closed=True, limit=500))
    timed("incidents.show", lambda: show_incident(state, "INC-10"))
    timed("incidents.line_of_health", lambda: incident_lines(state, CODE))


if __name__ == "__main__":
    test_correlation_figures()
    test_ten_thousand_incidents_in_the_store()
