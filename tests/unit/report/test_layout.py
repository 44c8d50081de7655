"""The picture's geometry: nothing lost, nothing twice, nothing on top of anything else."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fakes.snapshots import behind, bridge, function, make_snapshot, nic
from tests.unit.report.hosts import chains, forests, make_chain
from vfio_cli.report.forest import Place, plant
from vfio_cli.report.geometry import Line, Rect
from vfio_cli.report.layout import HIGH, WIDTH, Panel, lay_out
from vfio_cli.report.outlines import PAD, Outline, has_group, reserve
from vfio_contract.address import Address
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP, PciFunction, Snapshot

ANY = st.one_of(forests(), chains())


def draw(host: Host, *, low: bool = False) -> tuple[Panel, ...]:
    names = [f.address for f in host.functions if f.class_code is None] if low else []
    return lay_out(plant(host), low=set(names))


def rects(panel: Panel) -> dict[Address, Rect]:
    return {box.address: box.rect for box in panel.boxes}


@settings(max_examples=100)
@given(ANY, st.booleans())
@example(make_chain(1), False)
@example(make_chain(60), False)
def test_every_function_is_drawn_exactly_once_and_alone(snapshot: Snapshot, low: bool) -> None:
    host = Host(snapshot)
    panels = draw(host, low=low)
    drawn = Counter(box.address for panel in panels for box in panel.boxes)
    assert drawn == Counter(f.address for f in host.functions)
    for panel in panels:
        boxes = [reserve(b.rect, host.by_address[b.address].group) for b in panel.boxes]
        for index, box in enumerate(panel.boxes):
            assert box.rect.x >= 0
            assert box.rect.width > 0
            assert boxes[index].right <= WIDTH
            assert box.rect.bottom <= panel.height
            assert not any(box.rect.overlaps(other.rect) for other in panel.boxes[:index])


@settings(max_examples=100)
@given(ANY)
def test_what_hangs_below_a_bridge_is_drawn_right_of_it_or_below(snapshot: Snapshot) -> None:
    host = Host(snapshot)
    for panel in draw(host):
        places = rects(panel)
        for address, rect in places.items():
            parent = host.by_address[address].parent
            if panel.tree.place is Place.CIRCLE or not parent or parent not in places:
                continue
            above = places[parent]
            beside = rect.x > above.right and rect.y + rect.height >= above.y
            beneath = rect.y >= above.bottom and rect.x >= above.x
            assert beside or beneath, (parent, address)


@settings(max_examples=300)
@given(ANY)
def test_an_outline_holds_exactly_its_members(snapshot: Snapshot) -> None:
    host = Host(snapshot)
    panels = draw(host)
    drawn: list[Address] = []
    for panel in panels:
        places = rects(panel)
        for outline in panel.outlines:
            drawn += outline.members
            assert {host.by_address[a].group for a in outline.members} == {outline.group}
            assert outline.known or len(outline.members) == 1
            for address, rect in places.items():
                if address in outline.members:
                    assert outline.rect.holds(rect)
                else:
                    assert not outline.rect.overlaps(rect)
        solid = [o for o in panel.outlines if o.known]
        for index, outline in enumerate(solid):
            assert not any(outline.rect.overlaps(o.rect) for o in solid[:index])
    assert Counter(drawn) == Counter(f.address for f in host.functions)


@settings(max_examples=50)
@given(ANY)
def test_the_parts_of_a_group_are_counted(snapshot: Snapshot) -> None:
    parts: dict[int, list[Outline]] = {}
    for panel in draw(Host(snapshot)):
        for outline in panel.outlines:
            if outline.group is not None and has_group(outline.group):
                parts.setdefault(outline.group, []).append(outline)
    for rows in parts.values():
        assert [o.part for o in rows] == list(range(1, len(rows) + 1))
        assert {o.parts for o in rows} == {len(rows)}


@settings(max_examples=50)
@given(ANY)
def test_a_cut_goes_through_lines_only(snapshot: Snapshot) -> None:
    for panel in draw(Host(snapshot)):
        assert panel.cuts[0] == 0
        assert panel.cuts[-1] == panel.height
        assert all(a < b for a, b in pairwise(panel.cuts))
        for cut in panel.cuts[1:-1]:
            for outline in panel.outlines:
                assert not outline.rect.y < cut < outline.rect.bottom
            for bracket in panel.brackets:
                assert not bracket.line.y1 < cut < bracket.line.y2


@settings(max_examples=50)
@given(ANY)
def test_the_order_of_the_evidence_does_not_matter(snapshot: Snapshot) -> None:
    turned = make_snapshot(*reversed(snapshot.facts.functions or ()))
    assert draw(Host(turned)) == draw(Host(snapshot))


# --- places --------------------------------------------------------------------------------------


def place_of(*functions: PciFunction) -> list[tuple[Place, str]]:
    return [(t.place, t.name) for t in plant(Host(make_snapshot(*functions))).trees]


def test_an_unknown_parent_is_not_guessed_from_the_bus() -> None:
    port = bridge("0000:00:01.0", group=1)
    card = nic("0000:01:00.0", group=2, parent=None)
    assert place_of(port, card) == [(Place.HOST_BRIDGE, "pci0000:00"), (Place.BUS, "0000:01")]


def test_a_parent_that_the_evidence_lacks_is_named() -> None:
    card = nic("0000:01:00.0", parent=Address("0000:00:01.0"))
    assert place_of(card) == [(Place.ABSENT, "0000:00:01.0")]


def test_a_circle_ends() -> None:
    first = bridge("0000:01:00.0", parent=Address("0000:02:00.0"))
    second = bridge("0000:02:00.0", parent=Address("0000:01:00.0"))
    below = nic("0000:03:00.0", parent=Address("0000:02:00.0"))
    own = bridge("0000:04:00.0", parent=Address("0000:04:00.0"))
    assert place_of(first, second, below, own) == [(Place.CIRCLE, "")]
    (panel,) = draw(Host(make_snapshot(first, second, below, own)))
    assert len(panel.boxes) == 4


def test_a_chain_deeper_than_any_recursion_is_drawn() -> None:
    (panel,) = draw(Host(make_chain(1500)))
    assert len(panel.boxes) == 1501


# --- what it looks like --------------------------------------------------------------------------


def test_a_bridge_stands_beside_the_first_function_below_it() -> None:
    port = bridge("0000:00:01.0", group=1)
    rows = behind(port, nic("0000:01:00.0", group=2), nic("0000:01:00.1", group=3))
    (panel,) = draw(Host(make_snapshot(*rows)))
    places = rects(panel)
    above, first, second = (places[f.address] for f in rows)
    assert first.y == above.y
    assert second.y > first.bottom
    assert first.x == second.x > above.right
    (bracket,) = panel.brackets
    assert bracket.slot == "0000:01:00"
    assert (bracket.line.y1, bracket.line.y2) == (first.y, second.bottom)


def test_port_and_function_in_one_group_are_in_one_outline() -> None:
    rows = behind(bridge("0000:00:01.0", group=7), nic("0000:01:00.0", group=7))
    (panel,) = draw(Host(make_snapshot(*rows)))
    (outline,) = panel.outlines
    assert outline.members == ("0000:00:01.0", "0000:01:00.0")
    assert (outline.part, outline.parts) == (1, 1)


def test_members_that_are_not_neighbours_keep_their_own_outlines() -> None:
    rows = [nic(f"0000:00:0{n}.0", group=group) for n, group in ((1, 5), (2, 6), (3, 5))]
    (panel,) = draw(Host(make_snapshot(*rows)))
    assert [(o.group, o.part, o.parts) for o in panel.outlines] == [(5, 1, 2), (6, 1, 1), (5, 2, 2)]


def test_a_slot_of_one_group_stands_close_together() -> None:
    rows = [function(f"0000:00:1f.{n}", group=9) for n in range(4)]
    (panel,) = draw(Host(make_snapshot(*rows)))
    tops = [box.rect.y for box in panel.boxes]
    assert {b - a for a, b in pairwise(tops)} == {HIGH + 4}
    assert len(panel.outlines) == 1


def test_an_outline_beside_a_bridge_without_one_keeps_off_the_slot_above() -> None:
    first = nic("0000:00:00.0", group=NO_GROUP)
    port = nic("0000:00:00.1", group=NO_GROUP)
    (panel,) = draw(Host(make_snapshot(first, *behind(port, nic("0000:01:00.0", group=0)))))
    (outline,) = [o for o in panel.outlines if o.known]
    assert not any(outline.rect.overlaps(rects(panel)[f.address]) for f in (first, port))


def test_a_slot_goes_on_below_what_hangs_from_its_first_function() -> None:
    port = nic("0000:00:00.0", group=NO_GROUP)
    second = nic("0000:00:00.1", group=2)
    rows = (*behind(port, nic("0000:01:00.0", group=2)), second)
    (panel,) = draw(Host(make_snapshot(*rows)))
    assert [o.members for o in panel.outlines if o.known] == [(rows[1].address,), (second.address,)]
    for outline in panel.outlines:
        if port.address not in outline.members:
            assert not outline.rect.overlaps(rects(panel)[port.address])


def test_256_functions_on_one_bus_take_one_column() -> None:
    rows = [nic(f"0000:00:{n // 8:02x}.{n % 8}", group=n) for n in range(256)]
    (panel,) = draw(Host(make_snapshot(*rows)))
    assert len({box.rect.x for box in panel.boxes}) == 1
    assert panel.height < 256 * (HIGH + 2 * PAD + 10)


@pytest.mark.parametrize(
    ("line", "top", "bottom", "left"),
    [
        (Line(1, 0, 1, 10), 2, 5, Line(1, 2, 1, 5)),
        (Line(1, 0, 1, 10), 20, 30, None),
        (Line(0, 4, 9, 4), 0, 5, Line(0, 4, 9, 4)),
        (Line(0, 4, 9, 4), 5, 9, None),
    ],
)
def test_a_line_is_cut_at_the_paper_edge(
    line: Line, top: float, bottom: float, left: Line | None
) -> None:
    assert line.within(top, bottom) == left
