"""Of a thousand nodes three hundred widen after one kernel: one incident, its cause named."""

from __future__ import annotations

from tests.unit.state.crowd import Crowd, make_kind
from vfio_coordinator.state.effects import Notify
from vfio_coordinator.state.events import Now, Tick
from vfio_coordinator.state.incident_notices import HOLD_S
from vfio_coordinator.state.incident_report import incident_lines, list_incidents, show_incident
from vfio_coordinator.state.invariants import check_invariants

NODES = 1_000
HIT = 300
NEW = "6.8.12-5"


def test_three_hundred_of_a_thousand_widen_after_one_kernel() -> None:
    good, other = make_kind(), make_kind(board="X13DEi")
    newer_bios = make_kind(bios="F11")
    wide = make_kind(wide=True, kernel=NEW)
    wide_and_bios = make_kind(wide=True, kernel=NEW, bios="F11")
    wide_of_bios = make_kind(wide=True, bios="F12")
    crowd = Crowd()
    names = [f"n{number:04}" for number in range(NODES)]
    for name in names:
        crowd.join(name, good)
        crowd.accept(name)
    for name in ("x1", "x2", "y1", "y2"):
        crowd.join(name, other if name < "y" else good)
        crowd.accept(name)
    for name in names[900:950]:
        crowd.reboot(name, newer_bios)  # F11 alone does no harm
    crowd.clear()
    for number, name in enumerate(names[:HIT]):
        # the first of all changed both, and so did every tenth
        crowd.reboot(name, wide_and_bios if number % 10 == 0 else wide)
    for name in ("y1", "y2"):
        crowd.reboot(name, wide_of_bios)  # the same code, of another cause

    check_invariants(crowd.state)
    views, total = list_incidents(crowd.state, closed=False, limit=0)
    assert total == 2
    assert [(view.id, view.code, view.nodes) for view in views] == [
        ("INC-1", "GROUP_WIDENED", HIT),
        ("INC-2", "GROUP_WIDENED", 2),
    ]
    shown = show_incident(crowd.state, "INC-1")
    (factor,) = shown.factors
    assert (factor.part, factor.before, factor.after) == ("kernel", "6.8.12-4", NEW)
    assert (factor.unaffected, factor.unknown) == (0, 0)
    waiting = {*names[HIT:], "y1", "y2"}
    assert set(shown.waiting) == waiting, "700 peers and y1, y2; boards of x1, x2 are others"
    assert (factor.waiting, shown.unaffected, shown.unknown) == (NODES - HIT + 2, (), ())
    assert [member.node for member in shown.members] == names[:HIT]
    second = show_incident(crowd.state, "INC-2")
    assert (second.factors[0].part, second.factors[0].after) == ("BIOS", "F12 01/01/2025")
    (line,) = incident_lines(crowd.state, "GROUP_WIDENED")
    assert line.common == "common: kernel 6.8.12-4 -> 6.8.12-5; 702 peers still on 6.8.12-4"
    rows = [row.code for row in crowd.state.log.values() if row.subject == "incident:INC-1"]
    assert sorted(rows) == ["INCIDENT_NARROWED", "INCIDENT_OPENED"]
    crowd.now = Now(crowd.now.monotonic_s + HOLD_S, crowd.now.utc)
    crowd.send(Tick())
    told = [e.stamp for e in crowd.effects if isinstance(e, Notify)]
    assert told == ["INC-1/1", "INC-2/1"]
