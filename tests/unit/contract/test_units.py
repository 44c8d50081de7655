"""Units partition the endpoints and never split what a group or a reset takes together."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.snapshots import audio, bridge, function, gpu, nic
from tests.fakes.snapshots import make_host as build
from vfio_contract.host import Host
from vfio_contract.model import PciFunction


def make_host(*, functions: tuple[PciFunction, ...]) -> Host:
    return build(*functions)


def test_gpu_takes_its_audio_along_even_from_another_group() -> None:
    host = make_host(
        functions=(
            bridge("0000:00:01.0", group=1),
            gpu("0000:01:00.0", parent="0000:00:01.0", group=12),
            audio("0000:01:00.1", parent="0000:00:01.0", group=13),
        )
    )
    (unit,) = host.units
    assert unit.kind == "gpu"
    assert unit.assign == ("0000:01:00.0", "0000:01:00.1")
    assert unit.hold == ()


def test_two_nics_with_flr_in_two_groups_are_two_units() -> None:
    host = make_host(
        functions=(
            nic("0000:01:00.0", parent="0000:00:01.0", group=1, reset_methods=("flr",)),
            nic("0000:01:00.1", parent="0000:00:01.0", group=2, reset_methods=("flr",)),
        )
    )
    assert [u.assign for u in host.units] == [("0000:01:00.0",), ("0000:01:00.1",)]


def test_without_flr_the_hot_reset_joins_the_slot() -> None:
    host = make_host(
        functions=(
            bridge("0000:00:01.0", group=0),
            nic("0000:01:00.0", parent="0000:00:01.0", group=1, reset_methods=("bus",)),
            nic("0000:01:00.1", parent="0000:00:01.0", group=2, reset_methods=()),
        )
    )
    assert [u.assign for u in host.units] == [("0000:01:00.0", "0000:01:00.1")]


def test_bridge_that_would_spoil_viability_is_held_and_a_port_is_not() -> None:
    host = make_host(
        functions=(
            bridge("0000:08:00.0", group=20, driver="shpchp", port_type=7),
            nic("0000:09:01.0", parent="0000:08:00.0", group=20),
            bridge("0000:05:00.0", group=18, port_type=6),
            nic("0000:06:00.0", parent="0000:05:00.0", group=18),
        )
    )
    held = {u.primary: u.hold for u in host.units}
    assert held == {"0000:09:01.0": ("0000:08:00.0",), "0000:06:00.0": ()}


def test_chipset_helpers_are_held_with_the_controller_they_share_a_group_with() -> None:
    host = make_host(
        functions=(
            function("0000:00:1f.0", class_code=0x060100, group=13),
            function("0000:00:1f.2", class_code=0x010601, group=13),
            function("0000:00:1f.3", class_code=0x0C0500, group=13),
        )
    )
    (unit,) = host.units
    assert unit.assign == ("0000:00:1f.2",)
    assert unit.hold == ("0000:00:1f.0", "0000:00:1f.3")
    assert len(unit.keys) == 3


def test_id_survives_renumbering() -> None:
    before = make_host(
        functions=(bridge("0000:00:02.0"), nic("0000:01:00.0", parent="0000:00:02.0", group=8))
    )
    after = make_host(
        functions=(bridge("0000:00:02.0"), nic("0000:04:00.0", parent="0000:00:02.0", group=2))
    )
    assert before.units[0].id == after.units[0].id


_GROUPS = st.integers(0, 4)
_METHODS = st.sampled_from([("flr",), ("bus",), ("pm",), (), None])


@st.composite
def _trees(draw: st.DrawFn) -> tuple[PciFunction, ...]:
    rows: list[PciFunction] = []
    for port in range(1, draw(st.integers(1, 3)) + 1):
        parent = f"0000:00:{port:02x}.0"
        rows.append(bridge(parent, group=draw(_GROUPS)))
        for number in range(draw(st.integers(0, 3))):
            rows.append(
                replace(
                    nic(f"0000:{port:02x}:00.{number}", parent=parent, group=draw(_GROUPS)),
                    reset_methods=draw(_METHODS),
                )
            )
    return tuple(rows)


@given(_trees())
def test_units_partition_the_endpoints(rows: tuple[PciFunction, ...]) -> None:
    host = make_host(functions=rows)
    seen = [a for unit in host.units for a in unit.assign]
    endpoints = [f.address for f in rows if not f.is_bridge]
    assert sorted(seen) == sorted(endpoints)
    for unit in host.units:
        groups = {host.by_address[a].group for a in unit.assign}
        together = {
            f.address for n in groups if n is not None for f in host.members[n] if not f.is_bridge
        }
        assert together <= set(unit.assign)
    assert make_host(functions=tuple(reversed(rows))).units == host.units
