"""What must hold of drift for every host: none against itself, its mirror, none by silence."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.checks.hosts import hosts, places, take_away
from vfio_contract.address import Address
from vfio_contract.artifact import decode, encode, from_plain, to_plain
from vfio_contract.drift import Change, compare, diff
from vfio_contract.fingerprint import Fingerprint, fingerprint
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import (
    NO_GROUP,
    ConfigSpace,
    Facts,
    IommuGroup,
    PciFunction,
    Snapshot,
)

MIRROR = {
    "FIRMWARE_CHANGED": {"FIRMWARE_CHANGED"},
    "NEXT_BOOT_CHANGED": {"NEXT_BOOT_CHANGED"},
    "GROUP_RENUMBERED": {"GROUP_RENUMBERED"},
    "DEVICE_MOVED": {"DEVICE_MOVED"},
    "GROUP_WIDENED": {"GROUP_WIDENED", "GROUP_SPLIT", "GROUP_NARROWED"},
    "GROUP_SPLIT": {"GROUP_WIDENED"},
    "GROUP_NARROWED": {"GROUP_WIDENED"},
    "DEVICE_VANISHED": {"DEVICE_APPEARED"},
    "DEVICE_APPEARED": {"DEVICE_VANISHED"},
    "BINDING_LOST": {"BINDING_GAINED"},
    "BINDING_GAINED": {"BINDING_LOST"},
    "RESET_LOST": {"RESET_GAINED"},
    "RESET_GAINED": {"RESET_LOST"},
    "VF_COUNT_CHANGED": {"VF_COUNT_CHANGED"},
    "BAR_CHANGED": {"BAR_CHANGED"},
    "LINK_DEGRADED": {"LINK_IMPROVED", "LINK_DEGRADED"},
    "LINK_IMPROVED": {"LINK_DEGRADED"},
    "ACS_CLEARED": {"ACS_RESTORED"},
    "ACS_RESTORED": {"ACS_CLEARED"},
    "ISOLATION_ARTIFICIAL": {"ISOLATION_NATIVE"},
    "ISOLATION_NATIVE": {"ISOLATION_ARTIFICIAL"},
}
"""What each class reads like with the two sides swapped."""


def with_facts(snapshot: Snapshot, **changes: Any) -> Host:
    return Host(replace(snapshot, facts=replace(snapshot.facts, **changes)))


def codes_of(changes: Iterable[Change]) -> list[str]:
    return sorted({c.code for c in changes})


# --- one host ------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(hosts())
def test_nothing_differs_from_itself(snapshot: Snapshot) -> None:
    assert compare(Host(snapshot), Host(snapshot)) == ()


@settings(max_examples=15)
@given(hosts(), st.randoms(use_true_random=False))
def test_the_order_in_which_functions_are_listed_does_not_matter(
    snapshot: Snapshot, random: Any
) -> None:
    rows = list(snapshot.facts.functions or ())
    random.shuffle(rows)
    assert compare(Host(snapshot), with_facts(snapshot, functions=tuple(rows))) == ()


def renumbered(
    facts: Facts, buses: Mapping[tuple[str, str], str], groups: Mapping[int, int]
) -> dict[str, Any]:
    """The same machine with other bus and group numbers; what is on bus 00 stays there."""

    def address(text: str) -> str:
        domain, bus, rest = text.split(":")
        return f"{domain}:{buses.get((domain, bus), bus)}:{rest}"

    rows = tuple(
        replace(
            f,
            address=Address(address(f.address)),
            parent=f.parent and Address(address(f.parent)),
            physfn=f.physfn and Address(address(f.physfn)),
            group=f.group if f.group is None else groups.get(f.group, f.group),
        )
        for f in facts.functions or ()
    )
    listed = tuple(
        IommuGroup(
            groups.get(g.number, g.number), g.name, g.type, tuple(map(address, g.members)), None
        )
        for g in facts.groups or ()
    )
    return {"functions": rows, "groups": listed, "vms": (), "mappings": ()}


@settings(max_examples=20)
@given(hosts(), st.data())
def test_other_bus_and_group_numbers_only_renumber_and_move(
    snapshot: Snapshot, data: st.DataObject
) -> None:
    facts = replace(snapshot.facts, vms=(), mappings=())
    rows = facts.functions or ()
    buses = sorted({tuple(f.address.split(":")[:2]) for f in rows if f.address[5:7] != "00"})
    numbers = data.draw(st.permutations(range(0x10, 0x10 + 2 * len(buses))))
    # within a domain the order of buses below one bridge is the firmware's choice
    to_bus = {key: f"{n:02x}" for key, n in zip(buses, numbers, strict=False)}
    used = sorted({f.group for f in rows if f.group is not None and f.group >= 0})
    to_group = dict(zip(used, data.draw(st.permutations(used)), strict=True))
    changed = renumbered(facts, typing.cast(Any, to_bus), to_group)
    changes = compare(Host(replace(snapshot, facts=facts)), with_facts(snapshot, **changed))
    assert set(codes_of(changes)) <= {"DEVICE_MOVED", "GROUP_RENUMBERED"}
    moved = {c.before: c.after for c in changes if c.code == "DEVICE_MOVED"}
    was = [f for f in rows if not f.is_bridge]
    assert len(moved) == sum(f.address[5:7] != "00" for f in was)


# --- two hosts -----------------------------------------------------------------------------------


def mirrored(changes: Iterable[Change]) -> dict[tuple[str, str, str, str], set[str]]:
    found: dict[tuple[str, str, str, str], set[str]] = {}
    for c in changes:
        key = (c.address_before, c.address_after, c.before, c.after)
        found.setdefault(key, set()).add(c.code)
    return found


@settings(max_examples=25)
@given(hosts(), hosts())
def test_swapping_the_sides_swaps_every_change(one: Snapshot, other: Snapshot) -> None:
    there = mirrored(compare(Host(one), Host(other)))
    back = mirrored(compare(Host(other), Host(one)))
    swapped = {(b, a, now, was): codes for (a, b, was, now), codes in back.items()}
    assert there.keys() == swapped.keys()
    for key, codes in there.items():
        assert all(MIRROR[code] & swapped[key] for code in codes), (key, codes, swapped[key])


@settings(max_examples=20)
@given(hosts(), hosts())
def test_every_endpoint_is_matched_gone_or_new_and_each_once(
    one: Snapshot, other: Snapshot
) -> None:
    changes = compare(Host(one), Host(other))
    gone = [c.address_before for c in changes if c.code == "DEVICE_VANISHED"]
    new = [c.address_after for c in changes if c.code == "DEVICE_APPEARED"]
    assert len(set(gone)) == len(gone)
    assert len(set(new)) == len(new)
    for c in changes:
        if c.code not in ("DEVICE_VANISHED", "DEVICE_APPEARED"):
            assert c.address_before not in gone or not c.address_before
            assert c.address_after not in new or not c.address_after


# --- what rests on an IOMMU ----------------------------------------------------------------------

REST_ON_IT = ("GROUP_", "ACS_", "ISOLATION_", "BINDING_")


def unremapped(function: PciFunction, group: int | None) -> PciFunction:
    """As the kernel has it with the IOMMU off; whether it is in no group may not be known."""
    row = replace(function, group=group)
    if is_vfio_bound(row) and group is not None and function.group not in (None, NO_GROUP):
        row = replace(row, driver="", vfio_device=False)
    if row.config is None or row.config.acs is None:
        return row
    return replace(row, config=replace(row.config, acs=replace(row.config.acs, control=0)))


@settings(max_examples=20)
@given(hosts(), st.sampled_from([NO_GROUP, None]))
def test_what_rests_on_an_iommu_is_not_judged_without_one(
    snapshot: Snapshot, group: int | None
) -> None:
    rows = tuple(unremapped(f, group) for f in snapshot.facts.functions or ())
    off = with_facts(snapshot, functions=rows, groups=None if group is None else ())
    for changes in (compare(Host(snapshot), off), compare(off, Host(snapshot))):
        assert not [c for c in changes if c.code.startswith(REST_ON_IT)]


# --- evidence that is missing --------------------------------------------------------------------


def optional(kind: type) -> list[str]:
    hints = typing.get_type_hints(kind)
    return [
        f.name
        for f in fields(kind)
        if typing.get_origin(hints[f.name]) in (types.UnionType, typing.Union)
    ]


@settings(max_examples=25)
@given(hosts(), st.data())
def test_a_field_that_one_side_does_not_know_is_no_change(
    snapshot: Snapshot, data: st.DataObject
) -> None:
    less = snapshot
    for place in data.draw(st.lists(st.sampled_from(places(snapshot)), min_size=1, max_size=4)):
        less = take_away(less, place)
    assert compare(Host(snapshot), Host(less)) == ()
    assert compare(Host(less), Host(snapshot)) == ()


@settings(max_examples=25)
@given(hosts(), st.data())
def test_nor_is_any_field_of_a_function_or_its_config_space(
    snapshot: Snapshot, data: st.DataObject
) -> None:
    rows = list(snapshot.facts.functions or ())
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(rows) - 1))
        row = rows[index]
        if row.config is not None and data.draw(st.booleans()):
            name = data.draw(st.sampled_from(optional(ConfigSpace)))
            forgotten: dict[str, Any] = {name: None}
            rows[index] = replace(row, config=replace(row.config, **forgotten))
        else:
            name = data.draw(st.sampled_from(optional(PciFunction)))
            forgotten = {name: None}
            rows[index] = replace(row, **forgotten)
    groups = data.draw(st.sampled_from([snapshot.facts.groups, None]))
    less = with_facts(snapshot, functions=tuple(rows), groups=groups)
    assert compare(Host(snapshot), less) == ()
    assert compare(less, Host(snapshot)) == ()


@settings(max_examples=15)
@given(hosts(), st.data())
def test_a_fact_that_an_older_schema_did_not_have_is_no_change(
    snapshot: Snapshot, data: st.DataObject
) -> None:
    """The older artifact lacks the key altogether; the newer has one that nobody knows."""
    plain = to_plain(snapshot.facts)
    later = ("boot_options", "vms", "mappings", "boot_path", "address_widths", "module_rules")
    for name in data.draw(st.sets(st.sampled_from(later))):
        del plain[name]
    for row in plain["functions"]:
        for name in data.draw(st.sets(st.sampled_from(["bars", "max_link_speed", "root_path"]))):
            del row[name]
        if row["config"] is not None:
            del row["config"]["resizable"]
    plain["of_a_later_version"] = {"functions": [1, 2]}
    older = with_facts(replace(snapshot, facts=from_plain(Facts, plain)))
    assert compare(older, Host(snapshot)) == ()
    assert compare(Host(snapshot), older) == ()


@settings(max_examples=15)
@given(hosts(), st.data())
def test_a_fingerprint_of_another_version_is_compared_in_what_both_have(
    snapshot: Snapshot, data: st.DataObject
) -> None:
    now = fingerprint(Host(snapshot))
    plain = json.loads(encode(now))
    assert decode(Fingerprint, encode(now)) == now
    added = ("binding", "reset", "vfs", "total_vfs", "bars", "resizable", "link", "acs", "group")
    for name in data.draw(st.sets(st.sampled_from(added), min_size=1)):
        for row in plain["functions"]:
            del row[name]
    plain |= {"version": 7, "colour": "blue"}
    other = from_plain(Fingerprint, plain)
    assert diff(other, now) == ()
    assert diff(now, other) == ()
