"""Configuration space: every field from known bytes, and no bytes that break the parser."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.config_bytes import (
    acs,
    af,
    dsn,
    make_config,
    msi,
    msix,
    pcie,
    pm,
    sriov,
)
from vfio_agent.collect.attribute_reads import gather_config
from vfio_agent.collect.config_space import Link, parse_config, parse_link
from vfio_contract.model import (
    Acs,
    ConfigSpace,
    PcieCapability,
    SriovCapability,
)

PLAIN = (pm(no_soft_reset=True), msi(), pcie(flr=True, speed=4, width=16), msix(32), af())
EXTENDED = (dsn("00-11-22-33-44-55-66-77"), acs(control=0x1D), sriov(total=8, enabled=2))


def make_full(*, size: int = 4096, header_type: int = 0, multifunction: bool = False) -> bytes:
    return make_config(
        size=size,
        header_type=header_type,
        multifunction=multifunction,
        plain=PLAIN,
        extended=EXTENDED,
    )


def with_bytes(data: bytes, *changes: tuple[int, int]) -> bytes:
    changed = bytearray(data)
    for offset, value in changes:
        changed[offset] = value
    return bytes(changed)


def test_every_field_of_a_full_function() -> None:
    assert parse_config(make_full(multifunction=True)) == ConfigSpace(
        length=4096,
        dead=False,
        header_type=0,
        multifunction=True,
        secondary_bus=0,
        subordinate_bus=0,
        capabilities=(0x01, 0x05, 0x10, 0x11, 0x13),
        extended=(0x03, 0x0D, 0x10),
        pcie=PcieCapability(
            port_type=0, flr=True, slot_implemented=False, max_link_speed=4, max_link_width=16
        ),
        af_flr=True,
        pm_no_soft_reset=True,
        msi=True,
        msix_vectors=32,
        acs=Acs(capability=0x1F, control=0x1D),
        sriov=SriovCapability(total_vfs=8, initial_vfs=7, num_vfs=2, vf_device=0x10CA),
        serial_number="00-11-22-33-44-55-66-77",
        resizable=(),
    )


def test_a_bridge_has_buses_and_a_port() -> None:
    config = parse_config(
        make_config(header_type=1, buses=(4, 9), plain=(pcie(port_type=6, slot=True),))
    )
    assert (config.header_type, config.multifunction) == (1, False)
    assert (config.secondary_bus, config.subordinate_bus) == (4, 9)
    assert config.pcie is not None
    assert (config.pcie.port_type, config.pcie.slot_implemented) == (6, True)


def test_a_cardbus_bridge_keeps_its_list_elsewhere() -> None:
    config = parse_config(make_config(size=256, header_type=2, plain=(pm(),), buses=(29, 32)))
    assert config.capabilities == (0x01,)
    assert config.pm_no_soft_reset is False
    assert config.secondary_bus == 29


def test_absent_capabilities_are_known_to_be_absent() -> None:
    config = parse_config(make_config(plain=(pcie(),)))
    assert config.capabilities == (0x10,)
    assert config.extended == ()
    assert config.msi is False
    assert (config.msix_vectors, config.acs, config.sriov, config.serial_number) == (None,) * 4
    assert config.faults == ()


@pytest.mark.parametrize(
    ("tp", "flr", "expected"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_af_needs_both_bits(tp: bool, flr: bool, expected: bool) -> None:
    assert parse_config(make_config(size=256, plain=(af(tp=tp, flr=flr),))).af_flr is expected


@pytest.mark.parametrize("port_type", [9, 10])
def test_what_is_integrated_into_the_root_complex_has_no_link(port_type: int) -> None:
    config = parse_config(make_config(plain=(pcie(port_type=port_type, speed=3, width=8),)))
    assert config.pcie is not None
    assert (config.pcie.max_link_speed, config.pcie.max_link_width) == (0, 0)


# --- the link ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speed", "text"),
    [(1, "2.5"), (2, "5.0"), (3, "8.0"), (4, "16.0"), (5, "32.0"), (6, "64.0")],
)
def test_link_speeds(speed: int, text: str) -> None:
    expected = f"{text} GT/s PCIe"
    link = parse_link(make_config(plain=(pm(), pcie(speed=speed, width=16))))
    assert link == Link(max_speed=expected, max_width=16, speed=expected, width=16)


def test_a_link_that_trained_lower() -> None:
    data = make_config(plain=(pcie(speed=4, width=16),))
    link = parse_link(with_bytes(data, (0x52, 0x41), (0x53, 0x00)))
    assert link == Link(max_speed="16.0 GT/s PCIe", max_width=16, speed="2.5 GT/s PCIe", width=4)


def test_a_link_of_version_1_has_no_second_register() -> None:
    data = with_bytes(make_config(plain=(pcie(speed=2, width=1),)), (0x42, 1))
    link = parse_link(data)
    assert link is not None
    assert (link.max_speed, link.max_width) == ("5.0 GT/s PCIe", 1)
    beyond = parse_link(with_bytes(data, (0x4C, 0x13)))
    assert beyond is not None
    assert beyond.max_speed == "Unknown"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 4096,
        make_config(size=64, plain=(pcie(),)),
        make_config(size=256, plain=(pm(),)),
        make_config(plain=(pcie(port_type=9),)),
        make_config(plain=(pcie(port_type=10),)),
    ],
)
def test_no_link_registers(data: bytes) -> None:
    assert parse_link(data) is None


# --- how much was read ---------------------------------------------------------------------------


def test_no_bytes_prove_nothing() -> None:
    config = parse_config(b"")
    assert (config.length, config.dead, config.header_type) == (0, False, None)
    assert (config.capabilities, config.extended, config.msi) == (None, None, None)


def test_64_bytes_show_the_header_and_no_list() -> None:
    config = parse_config(make_full(size=64))
    assert (config.length, config.header_type) == (64, 0)
    assert config.capabilities is None
    assert config.extended is None
    assert (config.pcie, config.af_flr, config.msi) == (None, None, None)
    assert config.faults == ()


def test_64_bytes_of_a_function_without_capabilities_are_enough() -> None:
    config = parse_config(make_config(size=64))
    assert (config.capabilities, config.extended, config.msi) == ((), (), False)


def test_256_bytes_of_an_express_function_leave_the_extended_list_open() -> None:
    config = parse_config(make_full(size=256))
    assert config.pcie is not None
    assert config.extended is None
    assert (config.acs, config.sriov, config.serial_number) == (None, None, None)


def test_256_bytes_without_express_have_no_extended_list() -> None:
    config = parse_config(make_config(size=256, plain=(pm(), af())))
    assert config.extended == ()


@pytest.mark.parametrize("size", [64, 256, 4096, 1, 100])
def test_all_ones_are_dead(size: int) -> None:
    config = parse_config(b"\xff" * size)
    assert config.dead
    assert config.length == size
    assert (config.header_type, config.capabilities, config.extended) == (None, None, None)


def test_a_virtual_function_is_not_dead() -> None:
    config = parse_config(b"\xff\xff\xff\xff" + make_full()[4:])
    assert not config.dead
    assert config.header_type == 0
    assert config.pcie is not None


def test_a_list_that_goes_on_behind_the_end_is_unknown() -> None:
    whole = make_full()
    assert parse_config(whole[:0x48]).capabilities is None
    assert parse_config(whole[:0x108]).extended is None


# --- broken lists --------------------------------------------------------------------------------


def test_a_looping_list_ends_and_is_named() -> None:
    data = make_config(size=256, plain=(pm(), af()))
    config = parse_config(with_bytes(data, (0x49, 0x40)))
    assert config.capabilities == (0x01, 0x13)
    assert config.faults == ("capability list loops at 0x40",)
    assert config.extended is None  # an Express capability may lie behind the loop


def test_a_capability_that_points_to_itself_ends_the_walk() -> None:
    config = parse_config(with_bytes(make_config(size=256, plain=(pm(),)), (0x41, 0x40)))
    assert config.capabilities == (0x01,)
    assert config.faults == ("capability list loops at 0x40",)


def test_a_pointer_into_the_header_is_named() -> None:
    config = parse_config(with_bytes(make_config(size=256, plain=(pm(),)), (0x41, 0x3C)))
    assert config.faults == ("capability pointer 0x3c leads into the header",)


def test_the_two_low_bits_of_a_pointer_are_reserved() -> None:
    config = parse_config(with_bytes(make_config(size=256, plain=(pm(),)), (0x34, 0x43)))
    assert config.capabilities == (0x01,)
    assert config.faults == ()


def test_a_capability_of_all_ones_is_named() -> None:
    config = parse_config(with_bytes(make_config(size=256, plain=(pm(),)), (0x40, 0xFF)))
    assert config.capabilities == ()
    assert config.faults == ("capability at 0x40 reads as ff",)


def test_a_capability_cut_by_the_end_of_its_space_is_named() -> None:
    data = with_bytes(make_config(size=256), (0x06, 0x10), (0x34, 0xFC), (0xFC, 0x10))
    config = parse_config(data)
    assert config.capabilities == (0x10,)
    assert config.pcie is None
    assert config.faults == ("PCI Express capability at 0xfc is cut short",)


def extended_at(data: bytes, offset: int, header: int) -> bytes:
    return data[:offset] + header.to_bytes(4, "little") + data[offset + 4 :]


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (0x0001 | 1 << 16 | 0x100 << 20, "extended capability list loops at 0x100"),
        (0x0001 | 1 << 16 | 0x0FC << 20, "extended capability pointer 0x0fc leads below 0x100"),
        (0x0001 | 1 << 16 | 0x200 << 20, "extended capability at 0x200 reads as ffffffff"),
        (0x0001 | 1 << 16 | 0x300 << 20, "extended capability at 0x300 reads as 00000000"),
    ],
)
def test_a_broken_extended_list_ends_and_is_named(header: int, fault: str) -> None:
    data = make_config(plain=(pcie(),))
    data = extended_at(extended_at(data, 0x100, header), 0x200, 0xFFFFFFFF)
    config = parse_config(data)
    assert config.extended == (0x0001,)
    assert config.faults == (fault,)


@pytest.mark.parametrize("header", [0, 0xFFFFFFFF])
def test_an_empty_extended_list_is_no_fault(header: int) -> None:
    config = parse_config(extended_at(make_config(plain=(pcie(),)), 0x100, header))
    assert config.extended == ()
    assert config.faults == ()


def test_an_extended_capability_cut_by_the_end_is_named() -> None:
    data = make_config(plain=(pcie(),))
    data = extended_at(data, 0x100, 0x0001 | 1 << 16 | 0xFFC << 20)
    config = parse_config(extended_at(data, 0xFFC, 0x0D | 1 << 16))
    assert config.extended == (0x01, 0x0D)
    assert config.acs is None
    assert config.faults == ("ACS capability at 0xffc is cut short",)


# --- reading only what is looked at --------------------------------------------------------------


def test_only_the_lists_are_fetched() -> None:
    data = make_full()
    fetched: list[tuple[int, int]] = []

    def fetch(offset: int, length: int) -> bytes:
        fetched.append((offset, length))
        return data[offset : offset + length]

    gathered = gather_config(data[:256], 4096, fetch)
    assert gathered is not None
    assert parse_config(gathered) == parse_config(data)
    assert sum(length for _, length in fetched) == 12 + 12 + 0x40
    fetched.clear()
    assert gather_config(make_config(size=256, plain=(pm(),)), 4096, fetch) is not None
    assert gather_config(make_config(size=64), 4096, fetch) == make_config(size=64)
    assert gather_config(b"\xff" * 256, 4096, fetch) is None
    assert fetched == []


def test_a_space_that_shrinks_while_it_is_read_is_read_anew() -> None:
    assert gather_config(make_full(size=256), 4096, lambda at, n: b"") is None


# --- any bytes -----------------------------------------------------------------------------------

SIZES = st.sampled_from([0, 1, 14, 15, 63, 64, 65, 128, 255, 256, 257, 260, 1024, 4095, 4096, 5000])


def check_sound(data: bytes) -> None:
    config, link = parse_config(data), parse_link(data)
    gathered = gather_config(data[:256], len(data), lambda at, n: data[at : at + n])
    if gathered is not None and len(data) in (0, 1, 64, 256, 4096):
        assert len(gathered) == len(data)
        assert parse_config(gathered) == config
        assert parse_link(gathered) == link
    assert link is None or config.pcie is not None
    assert config.length == len(data)
    assert config == parse_config(data)
    for found, name in ((config.capabilities, "capability"), (config.extended, "extended")):
        assert found is None or len(found) <= 1024, name
    plain, extended = set(config.capabilities or ()), set(config.extended or ())
    assert (config.pcie is None) or 0x10 in plain
    assert (config.af_flr is None) or 0x13 in plain
    assert (config.acs is None) or 0x0D in extended
    assert (config.sriov is None) or 0x10 in extended
    assert (config.serial_number is None) or 0x03 in extended
    # known to be absent only where the whole list was seen
    if config.capabilities is None:
        assert config.msi is None
        assert config.extended is None
    if config.extended is not None and config.length <= 256:
        assert config.extended == ()


@given(data=st.binary(max_size=300), size=SIZES)
def test_any_bytes_of_any_length_are_parsed(data: bytes, size: int) -> None:
    check_sound(data)
    check_sound((data * 5000)[:size] if data else bytes(size))


@settings(max_examples=300)
@given(
    size=SIZES,
    header_type=st.integers(0, 2),
    writes=st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=40),
)
def test_a_damaged_function_is_parsed(
    size: int, header_type: int, writes: list[tuple[int, int]]
) -> None:
    data = with_bytes(make_full(header_type=header_type), *writes)
    check_sound((data + bytes(1000))[:size])


@settings(max_examples=300)
@given(
    pointers=st.lists(
        st.tuples(st.integers(0, 0x3FF), st.integers(0, 0xFFF)), min_size=1, max_size=200
    )
)
def test_any_web_of_pointers_ends(pointers: list[tuple[int, int]]) -> None:
    data = bytearray(make_config(plain=(pcie(),)))
    for place, target in pointers:
        offset = place * 4
        if offset >= 0x100:
            data[offset : offset + 4] = (0x000B | 1 << 16 | target << 20).to_bytes(4, "little")
        elif offset >= 0x40:
            data[offset : offset + 2] = bytes((0x09, target & 0xFF))
    check_sound(bytes(data))
