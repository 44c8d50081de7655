"""Two machines or one: what firmware says, and what it only pretends to say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import make_snapshot
from vfio_contract.machine import find_other_machine, given_name, telling_uuid
from vfio_contract.model import Facts

UUID = "4c4c4544-0035-3010-8052-b4c04f4a4d32"
OTHER = "4c4c4544-0035-3010-8052-b4c04f4a4d33"


def facts(**firmware: Any) -> Facts:
    made = make_snapshot().facts
    blank = {"product_uuid": None, "board_name": None, "product_name": None}
    return replace(made, firmware=replace(made.firmware, **(blank | firmware)))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "03000200-0400-0500-0006-000700080009",
        "12345678-1234-5678-1234-567812345678",
        "To Be Filled By O.E.M.",
        "Not Settable",
        "Default string",
    ],
)
def test_a_uuid_that_nobody_set_identifies_nothing(text: str | None) -> None:
    assert telling_uuid(text) == ""
    assert find_other_machine(facts(product_uuid=text), facts(product_uuid=UUID)) == ""


def test_a_real_uuid_is_kept_as_it_is() -> None:
    assert telling_uuid(f" {UUID}\n") == UUID
    assert telling_uuid("uuid-pve01") == "uuid-pve01"


def test_another_uuid_is_another_machine_whatever_the_board_is_called() -> None:
    found = find_other_machine(facts(product_uuid=UUID), facts(product_uuid=OTHER))
    assert UUID in found
    assert OTHER in found


def test_the_same_uuid_is_the_same_machine_though_an_update_renamed_the_board() -> None:
    before = facts(product_uuid=UUID, board_name="X570")
    after = facts(product_uuid=UUID.upper(), board_name="X570 rev 2")
    assert find_other_machine(before, after) == ""


@pytest.mark.parametrize("part", ["board_name", "product_name"])
def test_without_uuids_names_can_tell_two_apart(part: str) -> None:
    found = find_other_machine(facts(**{part: "X570"}), facts(**{part: "B650"}))
    assert found.endswith("X570 -> B650")
    assert find_other_machine(facts(**{part: "X570"}), facts(**{part: "X570"})) == ""


@pytest.mark.parametrize("text", [None, "", "To be filled by O.E.M.", "Default string", "  N/A "])
def test_a_name_that_nobody_wrote_tells_nothing(text: str | None) -> None:
    assert given_name(text) == ""
    assert find_other_machine(facts(board_name="X570"), facts(board_name=text)) == ""
