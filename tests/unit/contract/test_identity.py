"""Identity must survive renumbering and binding, and must never be shared by two functions."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.snapshots import bridge, function, nic
from vfio_contract.identity import identify
from vfio_contract.model import PciFunction


def _with_serial(item: PciFunction, serial: str) -> PciFunction:
    assert item.config is not None
    return replace(item, config=replace(item.config, serial_number=serial))


def test_renumbered_bus_keeps_the_identity() -> None:
    before = [bridge("0000:00:02.0"), nic("0000:01:00.0", parent="0000:00:02.0")]
    after = [bridge("0000:00:02.0"), nic("0000:04:00.0", parent="0000:00:02.0")]
    was = identify(before)[before[1].address]
    now = identify(after)[after[1].address]
    assert was == now
    assert was.method == "slot"


def test_binding_does_not_change_the_identity() -> None:
    on_host = nic("0000:01:00.0", driver="e1000e")
    on_vfio = nic("0000:01:00.0", driver="vfio-pci")
    assert identify([on_host]) == identify([on_vfio])


def test_trusted_serial_is_used_with_the_function_number() -> None:
    port = _with_serial(nic("0000:01:00.1"), "a0-36-9f-ff-ff-12-34-56")
    found = identify([port])[port.address]
    assert found.method == "dsn"
    assert found.identity == "dsn-a0-36-9f-ff-ff-12-34-56.1"


def test_serial_seen_in_two_slots_is_rejected_but_shared_within_one_is_not() -> None:
    serial = "01-00-00-00-68-4c-e0-00"
    twins = [
        _with_serial(nic("0000:01:00.0", parent="0000:00:02.0"), serial),
        _with_serial(nic("0000:02:00.0", parent="0000:00:03.0"), serial),
    ]
    assert {i.method for i in identify(twins).values()} == {"slot"}
    ports = [_with_serial(nic("0000:01:00.0"), serial), _with_serial(nic("0000:01:00.1"), serial)]
    found = identify(ports)
    assert {i.method for i in found.values()} == {"dsn"}
    assert len({i.identity for i in found.values()}) == 2


def test_zero_and_all_ones_serials_are_rejected() -> None:
    for serial in ("00-00-00-00-00-00-00-00", "ff-ff-ff-ff-ff-ff-ff-ff"):
        port = _with_serial(nic("0000:01:00.0"), serial)
        assert identify([port])[port.address].method == "slot"


def test_vf_is_its_pf_plus_an_index() -> None:
    pf = _with_serial(nic("0000:03:00.0"), "a0-36-9f-ff-ff-12-34-56")
    vf = replace(nic("0000:03:10.0"), physfn=pf.address, vf_index=0)
    found = identify([pf, vf])
    assert found[vf.address].identity == f"{found[pf.address].identity}/vf0"
    assert found[vf.address].method == "vf"


def test_two_host_bridges_do_not_collide() -> None:
    one = replace(nic("0000:17:00.0"), root="pci0000:16", root_path="")
    other = replace(nic("0000:65:00.0"), root="pci0000:64", root_path="")
    assert len({i.identity for i in identify([one, other]).values()}) == 2


def test_parents_that_loop_end() -> None:
    looping = bridge("0000:00:02.0", parent="0000:00:03.0")
    other = bridge("0000:00:03.0", parent="0000:00:02.0")
    assert len(identify([looping, other])) == 2


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 31)), min_size=1, unique=True))
def test_every_function_of_a_bus_has_its_own_identity(places: list[tuple[int, int]]) -> None:
    rows = [function(f"0000:01:{device:02x}.{number}") for number, device in places]
    found = identify(rows)
    assert len({i.identity for i in found.values()}) == len(rows)
    assert identify(list(reversed(rows))) == found
