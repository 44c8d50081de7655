"""Drift speaks of identities: numbers and addresses may change, neighbours may not."""

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.snapshots import bridge, make_facts, nic, nvme
from tests.fakes.snapshots import make_host as build
from vfio_contract.drift import Change, compare
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP, NOIOMMU_NAME, IommuGroup, PciFunction


def make_host(*, functions: tuple[PciFunction, ...], bios_version: str | None = "F10") -> Host:
    firmware = replace(make_facts().firmware, bios_version=bios_version)
    return build(*functions, firmware=firmware)


def _rows(
    *, nic_at: str = "0000:01:00.0", nic_group: int = 8, nvme_group: int = 9
) -> tuple[PciFunction, ...]:
    return (
        bridge("0000:00:02.0", group=1),
        bridge("0000:00:02.1", group=2),
        nic(nic_at, parent="0000:00:02.0", group=nic_group, driver="vfio-pci"),
        nvme("0000:02:00.0", parent="0000:00:02.1", group=nvme_group, driver="vfio-pci"),
    )


def _codes(changes: Iterable[Change]) -> list[tuple[str, str, str]]:
    return [(c.code, c.address_after or c.address_before, c.detail) for c in changes]


def test_the_same_host_has_no_drift() -> None:
    assert compare(make_host(functions=_rows()), make_host(functions=_rows())) == ()


def test_renumbered_group_is_not_harm() -> None:
    changes = compare(make_host(functions=_rows()), make_host(functions=_rows(nic_group=30)))
    assert _codes(changes) == [("GROUP_RENUMBERED", "0000:01:00.0", "")]
    assert not any(c.harms for c in changes)


def test_moved_names_both_addresses() -> None:
    changes = compare(
        make_host(functions=_rows()), make_host(functions=_rows(nic_at="0000:04:00.0"))
    )
    (change,) = changes
    assert (change.code, change.before, change.after) == (
        "DEVICE_MOVED",
        "0000:01:00.0",
        "0000:04:00.0",
    )
    assert not change.harms


def test_merged_groups_are_widened_on_both_sides() -> None:
    changes = compare(
        make_host(functions=_rows()), make_host(functions=_rows(nic_group=2, nvme_group=2))
    )
    assert _codes(changes) == [
        ("GROUP_WIDENED", "0000:01:00.0", "merged"),
        ("GROUP_WIDENED", "0000:02:00.0", "merged"),
    ]
    assert all(c.harms for c in changes)


def test_a_new_device_in_the_group_is_a_foreign_member() -> None:
    stranger = nic("0000:03:00.0", parent="0000:00:02.1", group=8)
    changes = compare(make_host(functions=_rows()), make_host(functions=(*_rows(), stranger)))
    assert ("GROUP_WIDENED", "0000:01:00.0", "foreign member") in _codes(changes)
    assert ("DEVICE_APPEARED", "0000:03:00.0", "") in _codes(changes)


def test_split_and_narrowed_never_widen() -> None:
    together = make_host(functions=_rows(nic_group=2, nvme_group=2))
    apart = make_host(functions=_rows())
    assert {c.code for c in compare(together, apart)} == {"GROUP_SPLIT"}
    alone = make_host(functions=_rows(nic_group=2, nvme_group=2)[:3])
    codes = {c.code for c in compare(together, alone)}
    assert codes == {"GROUP_NARROWED", "DEVICE_VANISHED"}


def test_lost_binding_and_lost_reset_are_harm() -> None:
    rows = _rows()
    lost = replace(rows[2], driver="e1000e", vfio_device=False)
    weaker = replace(rows[3], reset_methods=("bus",))
    changes = compare(make_host(functions=rows), make_host(functions=(*rows[:2], lost, weaker)))
    assert _codes(changes) == [
        ("BINDING_LOST", "0000:01:00.0", ""),
        ("RESET_LOST", "0000:02:00.0", ""),
    ]


def test_cleared_acs_bits_on_a_hop_are_harm() -> None:
    rows = _rows()
    hop = rows[0]
    assert hop.config is not None
    assert hop.config.acs is not None
    cleared = replace(hop, config=replace(hop.config, acs=replace(hop.config.acs, control=0x01)))
    changes = compare(make_host(functions=rows), make_host(functions=(cleared, *rows[1:])))
    assert _codes(changes) == [("ACS_CLEARED", "0000:00:02.0", "")]


def test_acs_bits_that_an_inactive_iommu_never_set_are_not_cleared() -> None:
    rows = _rows()
    hop = rows[0]
    assert hop.config is not None
    assert hop.config.acs is not None
    cleared = replace(hop, config=replace(hop.config, acs=replace(hop.config.acs, control=0x00)))
    on = make_host(functions=rows)
    for group in (NO_GROUP, None):  # None: a copied tree has no empty directories
        off = tuple(replace(f, group=group) for f in (cleared, *rows[1:]))
        assert compare(on, build(*off, groups=())) == ()
        assert compare(build(*off, groups=()), on) == ()


def test_a_group_of_no_iommu_mode_is_none() -> None:
    """What vfio makes up for a device that it has stands for no isolation."""
    rows = _rows()
    hop = rows[0]
    assert hop.config is not None
    assert hop.config.acs is not None
    cleared = replace(hop, config=replace(hop.config, acs=replace(hop.config.acs, control=0x00)))
    off = tuple(replace(f, group=NO_GROUP) for f in (cleared, *rows[1:]))
    emulated = (*off[:2], replace(rows[2], group=0), *off[3:])
    group = IommuGroup(0, NOIOMMU_NAME, "unknown", (rows[2].address,), ())
    assert compare(make_host(functions=rows), build(*emulated, groups=(group,))) == ()


def test_a_driver_that_went_with_the_group_is_not_lost() -> None:
    rows = _rows()
    bound = replace(rows[2], driver="vfio-pci", vfio_device=True)
    free = replace(rows[2], driver="", vfio_device=False, group=NO_GROUP)
    sides = [make_host(functions=(*rows[:2], row, rows[3])) for row in (bound, free)]
    assert compare(*sides) == compare(*reversed(sides)) == ()
    unread = build(*rows[:2], replace(free, group=None), rows[3], groups=())
    assert [c.code for c in compare(sides[0], unread)] == ["BINDING_LOST"]


def test_firmware_parts_that_one_side_does_not_know_are_not_changes() -> None:
    before = make_host(functions=_rows(), bios_version="F10")
    unknown = make_host(functions=_rows(), bios_version=None)
    after = make_host(functions=_rows(), bios_version="F11")
    assert compare(before, unknown) == ()
    (change,) = compare(before, after)
    assert (change.code, change.detail) == ("FIRMWARE_CHANGED", "BIOS")


def test_identity_read_with_and_without_privilege_is_the_same_device() -> None:
    rows = _rows()
    target = rows[2]
    assert target.config is not None
    blind = replace(target, config=replace(target.config, length=256, extended=None))
    number = "a0-36-9f-ff-ff-12-34-56"
    serial = replace(target, config=replace(target.config, extended=(0x03,), serial_number=number))
    without, with_it = (make_host(functions=(*rows[:2], one, rows[3])) for one in (blind, serial))
    assert with_it.identities[target.address].method == "dsn"
    assert compare(without, with_it) == ()
    assert compare(with_it, without) == ()


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 0xFF))
def test_widening_is_seen_exactly_when_neighbours_appear(one: int, two: int, bus: int) -> None:
    before = make_host(functions=_rows())
    after: Host = make_host(
        functions=_rows(nic_at=f"0000:{bus:02x}:00.0", nic_group=one, nvme_group=two)
        if bus != 2
        else _rows(nic_group=one, nvme_group=two)
    )
    widened = {c.address_after for c in compare(before, after) if c.code == "GROUP_WIDENED"}
    assert bool(widened) == (one == two)
