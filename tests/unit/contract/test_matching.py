"""Which device is which after firmware or slots changed, and how sure that is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.snapshots import audio, behind, bridge, config_space, gpu, make_host, nic, unread
from vfio_contract.drift import compare
from vfio_contract.fingerprint import fingerprint
from vfio_contract.host import Host
from vfio_contract.matching import ALONE, AT_ADDRESS, TWIN, Matching, match
from vfio_contract.model import PciFunction

SERIAL, OTHER = "a0-36-9f-ff-ff-12-34-56", "a0-36-9f-ff-ff-65-43-21"


def card(port: int, bus: int, serial: str | None = None) -> tuple[PciFunction, ...]:
    """A network card on that bus, below the root port 00:PORT.0."""
    config = config_space(flr=True, serial_number=serial)
    below = nic(f"0000:{bus:02x}:00.0", group=bus, config=config)
    return behind(bridge(f"0000:00:{port:02x}.0", group=100 + port), below)


def graphics(port: int, bus: int) -> tuple[PciFunction, ...]:
    """A graphics card with its audio function, without a serial number."""
    rows = gpu(f"0000:{bus:02x}:00.0", group=bus), audio(f"0000:{bus:02x}:00.1", group=bus)
    return behind(bridge(f"0000:00:{port:02x}.0", group=100 + port), *rows)


def matched(before: Host, after: Host) -> Matching:
    return match(fingerprint(before), fingerprint(after))


def endpoints(found: Matching) -> dict[str, tuple[str, str]]:
    return {
        p.before.address: (p.after.address, p.confidence) for p in found.pairs if not p.is_bridge
    }


def test_a_serial_number_is_followed_into_another_slot() -> None:
    found = matched(make_host(*card(1, 1, SERIAL)), make_host(*card(2, 7, SERIAL)))
    assert endpoints(found) == {"0000:01:00.0": ("0000:07:00.0", "")}


def test_cards_with_serials_that_changed_places() -> None:
    before = make_host(*card(1, 1, SERIAL), *card(2, 2, OTHER))
    after = make_host(*card(1, 1, OTHER), *card(2, 2, SERIAL))
    assert endpoints(matched(before, after)) == {
        "0000:01:00.0": ("0000:02:00.0", ""),
        "0000:02:00.0": ("0000:01:00.0", ""),
    }


def test_another_serial_in_the_same_slot_is_another_card() -> None:
    found = matched(make_host(*card(1, 1, SERIAL)), make_host(*card(1, 1, OTHER)))
    assert endpoints(found) == {}
    assert [f.address for f in found.gone] == ["0000:01:00.0"]
    assert [f.address for f in found.new] == ["0000:01:00.0"]


@pytest.mark.parametrize(("was", "is_now"), [(SERIAL, None), (None, SERIAL)])
@pytest.mark.parametrize("slot", [1, 2])
def test_a_card_with_a_serial_and_one_that_was_read_to_have_none_are_two(
    was: str | None, is_now: str | None, slot: int
) -> None:
    before, after = make_host(*card(1, 1, was)), make_host(*card(slot, slot, is_now))
    assert endpoints(matched(before, after)) == {}
    codes = [c.code for c in compare(before, after)]
    assert codes == ["DEVICE_VANISHED", "DEVICE_APPEARED"]


def test_a_serial_that_could_not_be_read_is_no_other_card() -> None:
    port, below = card(1, 1)
    whole = config_space(flr=True)
    for config in (
        replace(whole, length=256, extended=None),
        replace(whole, faults=("extended capability list loops",)),
        replace(whole, extended=(0x03,)),
        None,
    ):
        after = make_host(port, replace(below, config=config))
        found = matched(make_host(*card(1, 1, SERIAL)), after)
        assert endpoints(found) == {"0000:01:00.0": ("0000:01:00.0", "")}


def test_a_second_board_with_the_same_serial_takes_the_trust_and_not_the_device() -> None:
    """The serial is rejected on one side only; the first card is still where it was."""
    one = make_host(*card(1, 1, SERIAL))
    both = make_host(*card(1, 1, SERIAL), *card(2, 2, SERIAL))
    assert endpoints(matched(one, both))["0000:01:00.0"][0] == "0000:01:00.0"
    assert [c.code for c in compare(one, both)] == ["DEVICE_APPEARED"]
    assert [c.code for c in compare(both, one)] == ["DEVICE_VANISHED"]


def test_twins_without_serials_are_matched_by_place_and_it_says_so() -> None:
    before = make_host(*graphics(1, 1), *graphics(2, 2))
    after = make_host(*graphics(1, 5), *graphics(2, 6))
    assert endpoints(matched(before, after)) == {
        "0000:01:00.0": ("0000:05:00.0", TWIN),
        "0000:01:00.1": ("0000:05:00.1", TWIN),
        "0000:02:00.0": ("0000:06:00.0", TWIN),
        "0000:02:00.1": ("0000:06:00.1", TWIN),
    }
    assert all(c.confidence == TWIN for c in compare(before, after))


def test_the_only_one_of_its_kind_is_followed_slot_by_slot() -> None:
    found = endpoints(matched(make_host(*graphics(1, 1)), make_host(*graphics(2, 4))))
    assert found == {
        "0000:01:00.0": ("0000:04:00.0", ALONE),
        "0000:01:00.1": ("0000:04:00.1", ALONE),
    }


def test_half_a_card_is_not_taken_for_a_whole_one() -> None:
    found = matched(make_host(*graphics(1, 1)), make_host(*graphics(2, 4)[:2]))
    assert endpoints(found) == {}


def test_of_two_of_a_kind_in_new_slots_nobody_knows_which_is_which() -> None:
    before = make_host(*graphics(1, 1), *graphics(2, 2))
    found = matched(before, make_host(*graphics(3, 3), *graphics(4, 4)))
    assert endpoints(found) == {}
    assert len([f for f in found.gone if not f.bridge]) == 4


def test_a_place_that_could_not_be_read_is_no_loss() -> None:
    before = make_host(*card(1, 1))
    port, below = card(1, 1)
    after = make_host(port, unread(below, "parent"))
    assert endpoints(matched(before, after)) == {"0000:01:00.0": ("0000:01:00.0", AT_ADDRESS)}
    elsewhere = replace(unread(below, "parent"), address="0000:09:00.0")  # type: ignore[arg-type]
    found = matched(before, make_host(port, elsewhere))
    assert [f.address for f in found.gone if not f.bridge] == []
    codes = {c.code for c in compare(before, make_host(port, elsewhere))}
    assert "DEVICE_VANISHED" not in codes
